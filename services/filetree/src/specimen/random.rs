//! Numbers and bytes that follow from a seed.

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The numbers that follow from this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while (out.len() as u64) < length {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(length as usize);
        out
    }

    /// Text like a log's, which does.
    pub fn text(&mut self, length: u64) -> Vec<u8> {
        const WORDS: [&str; 8] = [
            "accepted", "closed", "from", "port", "user", "session", "opened", "for",
        ];
        let mut out = Vec::new();
        while (out.len() as u64) < length {
            let host = self.below(200);
            out.extend_from_slice(format!("10.1.0.{host} {:08}", self.below(1 << 20)).as_bytes());
            for _ in 0..self.below(8) {
                out.push(b' ');
                out.extend_from_slice(WORDS[self.below(8) as usize].as_bytes());
            }
            out.push(b'\n');
        }
        out.truncate(length as usize);
        out
    }
}
