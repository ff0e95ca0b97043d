//! Bytes that look like files: words, some of them frequent, between stretches that do not compress. gzip
//! makes about 40 % of them, as it does of a distribution's files.

use super::random::Random;

/// Words that text is made of.
const WORDS: usize = 4096;
const LETTERS: &[u8; 26] = b"etaoinshrdlucmfwypvbgkqjxz";
const ENDS: &[u8; 4] = b"   \n";
/// Words of text between two stretches of noise, and the noise's length in bytes.
const TEXT_WORDS: usize = 800;
const NOISE_LEN: usize = 640;

/// A source of such bytes.
#[derive(Debug)]
pub(crate) struct Data {
    random: Random,
    words: Vec<Vec<u8>>,
}

impl Data {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let words = (0..WORDS).map(|_| word(&mut random)).collect();
        Data { random, words }
    }

    /// Puts `len` bytes in place of what `buffer` has.
    pub(crate) fn fill(&mut self, buffer: &mut Vec<u8>, len: usize) {
        buffer.clear();
        while buffer.len() < len {
            for _ in 0..TEXT_WORDS {
                // The product of two even ones prefers the small: the first words come often.
                let (a, b) = (self.random.index(64), self.random.index(64));
                buffer.extend_from_slice(&self.words[a * b]);
            }
            for _ in 0..NOISE_LEN / 8 {
                buffer.extend_from_slice(&self.random.next().to_le_bytes());
            }
        }
        buffer.truncate(len);
    }
}

fn word(random: &mut Random) -> Vec<u8> {
    let len = 2 + random.index(8);
    let mut word: Vec<u8> = (0..len).map(|_| LETTERS[random.index(LETTERS.len())]).collect();
    word.push(ENDS[random.index(ENDS.len())]);
    word
}
