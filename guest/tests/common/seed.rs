//! Numbers that look random and come again with the same seed (splitmix64, Steele et al., 2014).

/// The state of a sequence.
#[derive(Clone)]
pub struct Seed(pub u64);

impl Seed {
    /// Seed number `index` of a test, shifted by `VMKPI_SEED` for other ones.
    pub fn of(index: u64) -> Self {
        let base = std::env::var("VMKPI_SEED").ok();
        let base: u64 = base.and_then(|text| text.parse().ok()).unwrap_or(1);
        Self(base.wrapping_mul(1_000_003).wrapping_add(index))
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit
    }

    /// One of two.
    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}
