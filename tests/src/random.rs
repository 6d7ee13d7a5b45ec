//! Numbers that a seed determines on every machine.

/// A small generator, so that a seed printed by a failing run repeats it anywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed >> 33) as u32) % limit
    }

    /// Whether a die of `n` sides shows the first.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}
