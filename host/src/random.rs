//! Random numbers from the kernel: nonces, streams, keys.

/// 64 random bits.
pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// 128 random bits.
pub fn u128() -> u128 {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    u128::from_ne_bytes(bytes)
}

/// A number from 0 to 1.
pub fn fraction() -> f64 {
    u64() as f64 / u64::MAX as f64
}

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel has random numbers once it has started");
}
