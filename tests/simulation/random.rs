//! Random numbers that are the same in every run.

/// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let high = u128::from(self.next()) * u128::try_from(end).expect("64 bits at most");
        usize::try_from(high >> 64).expect("it is less than `end`")
    }

    /// A number of 16 bits, below `end`.
    pub fn small(&mut self, end: u16) -> u16 {
        u16::try_from(self.below(end.into())).expect("it is less than `end`")
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, often: usize) -> bool {
        self.below(1_000) < often
    }

    /// One of them.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}
