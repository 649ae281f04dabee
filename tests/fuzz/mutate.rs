//! What becomes of good input.

use fastrand::Rng;

/// Longer input costs time, and shows nothing more: what is as large as may be has cases of its own.
const LONGEST: usize = 0x6000;

pub(crate) struct Mutator<'s> {
    random: Rng,
    seeds: &'s [Vec<u8>],
    words: &'s [&'s str],
}

impl<'s> Mutator<'s> {
    pub(crate) fn new(seed: u64, seeds: &'s [Vec<u8>], words: &'s [&'s str]) -> Self {
        Self { random: Rng::with_seed(seed), seeds, words }
    }

    /// One of the seeds, changed in one to eight places.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut input = self.seed().clone();
        for _ in 0..self.random.usize(1..=8) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn seed(&mut self) -> &'s Vec<u8> {
        &self.seeds[self.random.usize(..self.seeds.len())]
    }

    /// A range of at most `longest` bytes, most of them short.
    fn range(&mut self, length: usize, longest: usize) -> std::ops::Range<usize> {
        let from = self.random.usize(..=length);
        let longest = longest.min(length - from) >> self.random.u32(0..6);
        from..from + self.random.usize(..=longest)
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.usize(..=input.len());
        match self.random.u32(0..9) {
            0 if at < input.len() => input[at] ^= 1 << self.random.u32(0..8),
            1 if at < input.len() => input[at] = self.random.u8(..),
            2 => input.insert(at, self.random.u8(..)),
            3 => drop(input.drain(self.range(input.len(), 256))),
            4 => {
                let again = input[self.range(input.len(), 256)].to_vec();
                input.splice(at..at, again);
            }
            5 | 6 if !self.words.is_empty() => {
                let word = self.words[self.random.usize(..self.words.len())];
                let replaced = at..(at + self.random.usize(0..=word.len())).min(input.len());
                input.splice(replaced, word.bytes());
            }
            7 => {
                let other = self.seed();
                let part = other[self.range(other.len(), 1024)].to_vec();
                input.splice(at..at, part);
            }
            // The end is missing.
            8 if self.random.u32(0..8) == 0 => input.truncate(at),
            _ => {
                // A number is another one.
                if let Some(digit) = input.iter().skip(at).position(u8::is_ascii_digit) {
                    let number: &[u8] =
                        self.random.choice([&b"0"[..], b"-1", b"65536", b"4294967296"]).unwrap();
                    input.splice(at + digit..=at + digit, number.iter().copied());
                }
            }
        }
    }
}
