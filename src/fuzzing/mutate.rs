//! Mutators: changes of an input that keep its structure, so that the change is not refused by a checksum or a
//! length before the code under test sees it.

use serde_json::Value;

use super::input::{join, split};

/// A source of random numbers (Vigna, "SplitMix64").
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, or 0 if `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }
}

/// A mutation of some bytes without knowledge of their structure, as a fuzzer makes it.
pub(crate) type Plain<'a> = dyn FnMut(&mut Vec<u8>) + 'a;

/// A mutation that knows the structure of the bytes.
pub(crate) type Mutation = fn(&mut Vec<u8>, &mut Random, &mut Plain<'_>);

/// Changes bytes without structure.
pub(crate) fn bytes(data: &mut Vec<u8>, _: &mut Random, plain: &mut Plain<'_>) {
    plain(data);
}

/// Changes one part of an input, or the order and number of parts. The function returns the mutation of the part
/// with this number.
pub(crate) fn parts(
    data: &mut Vec<u8>,
    random: &mut Random,
    plain: &mut Plain<'_>,
    of_part: fn(usize) -> Mutation,
) {
    let mut parts: Vec<Vec<u8>> = split(data).into_iter().map(<[u8]>::to_vec).collect();
    let at = random.below(parts.len());
    let other = random.below(parts.len());
    match random.below(16) {
        0 => parts.insert(at, Vec::new()),
        1 if !parts.is_empty() => drop(parts.remove(at)),
        2 if !parts.is_empty() => parts.swap(at, other),
        3 if !parts.is_empty() => parts.insert(at, parts[other].clone()),
        _ if parts.is_empty() => parts.push(Vec::new()),
        _ => of_part(at)(&mut parts[at], random, plain),
    }
    *data = join(&parts);
}

/// Changes a tar: a field of a header, or the order and number of blocks. Then the checksums are corrected.
pub(crate) fn tar(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    let headers = headers(data);
    let blocks = data.len() / 512;
    let block = random.below(blocks) * 512;
    match random.below(8) {
        0 | 1 if !headers.is_empty() => field(data, headers[random.below(headers.len())], random),
        2 if blocks > 0 => drop(data.drain(block..block + 512)),
        3 if blocks > 0 => {
            let copy = data[block..block + 512].to_vec();
            let to = random.below(blocks) * 512;
            data.splice(to..to, copy);
        }
        4 => data.truncate(random.below(data.len() + 1)),
        5 if !headers.is_empty() => {
            let at = headers[random.below(headers.len())];
            let types = b"01234567xgLKS\0VNDMAX";
            data[at + 156] = types[random.below(types.len())];
        }
        _ => plain(data),
    }
    seal(data);
}

/// The fields of a header that decide what follows: offset and length.
const FIELDS: [(usize, usize); 12] = [
    (0, 100),
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (156, 1),
    (157, 100),
    (257, 8),
    (329, 16),
    (345, 155),
    (482, 30),
];

fn field(data: &mut [u8], header: usize, random: &mut Random) {
    let (start, len) = FIELDS[random.below(FIELDS.len())];
    let field = &mut data[header + start..header + start + len];
    match random.below(5) {
        0 => {
            let text = format!("{:0width$o}", random.next() >> random.below(64), width = len - 1);
            let digits = text.bytes().rev().take(len).collect::<Vec<_>>();
            field.iter_mut().zip(digits.into_iter().rev()).for_each(|(to, from)| *to = from);
        }
        1 => {
            field.fill(0);
            field[0] = 0x80 | u8::try_from(random.below(128)).unwrap_or(0);
            let value = (random.next() >> random.below(64)).to_be_bytes();
            field
                .iter_mut()
                .rev()
                .zip(value.into_iter().rev())
                .take(len - 1)
                .for_each(|(to, from)| *to = from);
        }
        2 => field.fill([0, b' ', b'0', b'7', 0xff][random.below(5)]),
        3 => field[random.below(len)] = b"/.\0 07\xff9a"[random.below(9)],
        _ => {
            let name: &[u8] = [&b"a"[..], b"a/b", ".wh.a".as_bytes(), b"a/.wh..wh..opq", b"../a", b"", b"a/"]
                [random.below(7)];
            field.fill(0);
            field.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        }
    }
}

/// Returns the offsets of blocks that are headers, as far as a simple reader finds them.
fn headers(data: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(block) = data.get(at..at + 512) {
        at += 512;
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        found.push(at - 512);
        let digits = block[124..136].iter().copied().filter(|byte| (b'0'..=b'7').contains(byte));
        let size =
            digits.fold(0_usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit & 7)));
        let has_payload = !(b'1'..=b'6').contains(&block[156]);
        if has_payload && size < data.len() {
            at += size.next_multiple_of(512);
        }
    }
    found
}

/// Writes the right checksum into every header that a simple reader finds.
pub(crate) fn seal(data: &mut [u8]) {
    for at in headers(data) {
        data[at + 148..at + 156].fill(b' ');
        let sum: u32 = data[at..at + 512].iter().map(|byte| u32::from(*byte)).sum();
        data[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Changes one line of a text, most often as JSON, or the order and number of lines.
pub(crate) fn lines(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    let mut lines: Vec<Vec<u8>> = data.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = random.below(lines.len());
    let other = random.below(lines.len());
    match random.below(8) {
        0 => lines.insert(at, lines[other].clone()),
        1 => drop(lines.remove(at)),
        2 => lines.swap(at, other),
        _ => json(&mut lines[at], random, plain),
    }
    *data = lines.join(&b'\n');
}

/// Changes a JSON document: a value, a key, or the text itself.
pub(crate) fn json(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    let parsed = serde_json::from_slice::<Value>(data).ok().filter(|_| random.below(4) > 0);
    let Some(mut value) = parsed else { return plain(data) };
    let mut places = count(&value);
    places = random.below(places);
    change(&mut value, &mut places, random);
    *data = value.to_string().into_bytes();
    if random.below(8) == 0 {
        repeat_key(data, random);
    }
}

/// Writes a key twice, or in another case.
fn repeat_key(data: &mut Vec<u8>, random: &mut Random) {
    let text = String::from_utf8_lossy(data).into_owned();
    let keys: Vec<usize> = text.match_indices("\":").map(|(at, _)| at).collect();
    let Some(end) = keys.get(random.below(keys.len())) else { return };
    let Some(start) = text[..*end].rfind('"') else { return };
    let key = match random.below(3) {
        0 => text[start + 1..*end].to_ascii_uppercase(),
        1 => text[start + 1..*end].to_ascii_lowercase(),
        _ => text[start + 1..*end].to_owned(),
    };
    *data = format!("{}\"{key}\":0,{}", &text[..start], &text[start..]).into_bytes();
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

/// Changes the value at position `at` in the order of [`count`].
fn change(value: &mut Value, at: &mut usize, random: &mut Random) {
    if *at == 0 {
        *at = usize::MAX;
        return replace(value, random);
    }
    if *at == usize::MAX {
        return;
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, at, random)),
        Value::Object(fields) => fields.values_mut().for_each(|field| change(field, at, random)),
        _ => {}
    }
}

fn replace(value: &mut Value, random: &mut Random) {
    match (random.below(10), &mut *value) {
        (0, Value::Array(items)) if !items.is_empty() => {
            let copy = items[random.below(items.len())].clone();
            items.push(copy);
        }
        (1, Value::Array(items)) if !items.is_empty() => drop(items.remove(random.below(items.len()))),
        (0 | 1, Value::Object(fields)) if !fields.is_empty() => {
            let key = fields.keys().nth(random.below(fields.len())).cloned().unwrap_or_default();
            let old = fields.remove(&key);
            if random.below(2) == 0 {
                fields.insert(key.to_ascii_lowercase(), old.unwrap_or_default());
            }
        }
        (2, _) => *value = Value::Null,
        (3, _) => *value = Value::from(random.next() >> random.below(64)),
        (4, _) => *value = Value::from(-1),
        (5, _) => *value = Value::from(Vec::<Value>::new()),
        (6, _) => *value = Value::Object(serde_json::Map::new()),
        (7, Value::String(text)) if text.is_char_boundary(text.len() / 2) => {
            text.truncate(text.len() / 2);
        }
        (8, Value::String(text)) => text.push_str(["/", "..", "\0", "\u{1b}[0m", ":", "@"][random.below(6)]),
        _ => *value = Value::from(["", "a", "../a", "/", "sha256:00", "1.5", "linux"][random.below(7)]),
    }
}
