//! Generates bytes that resemble files: words, some of them frequent, between ranges that do not
//! compress. gzip compresses them to about 40 %, like the files of a distribution.

use super::random::Random;

/// Number of different words in the text.
const WORDS: usize = 4096;
const LETTERS: &[u8; 26] = b"etaoinshrdlucmfwypvbgkqjxz";
const ENDS: &[u8; 4] = b"   \n";
/// Words of text between two ranges of noise, and the length of the noise in bytes.
const TEXT_WORDS: usize = 800;
const NOISE_LEN: usize = 640;

/// A generator of such bytes.
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

    /// Replaces the contents of `buffer` by `len` bytes.
    pub(crate) fn fill(&mut self, buffer: &mut Vec<u8>, len: usize) {
        buffer.clear();
        while buffer.len() < len {
            for _ in 0..TEXT_WORDS {
                // The product of two uniform numbers favours small values: the first words are frequent.
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
