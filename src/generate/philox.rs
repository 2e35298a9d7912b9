//! Philox-4x32-10, a counter-based generator of random numbers (Salmon, Moraes, Dror and Shaw 2011,
//! "Parallel random numbers: as easy as 1, 2, 3").

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// Four random words for a counter under a key.
pub fn philox_4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let product = |factor: u32, multiplier: u32| {
            let product = u64::from(factor) * u64::from(multiplier);
            ((product >> 32) as u32, product as u32)
        };
        let (high_0, low_0) = product(counter[0], MULTIPLIERS[0]);
        let (high_1, low_1) = product(counter[2], MULTIPLIERS[1]);
        counter = [high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// A multiple of 2⁻³² in [0, 1): the draw for the token at `position` of sample number `sample`,
/// whatever else is in the batch.
pub fn uniform(seed: u64, sample: u64, position: u32) -> f64 {
    let counter = [position, sample as u32, (sample >> 32) as u32, 0];
    let [word, ..] = philox_4x32(counter, [seed as u32, (seed >> 32) as u32]);
    f64::from(word) / (1u64 << 32) as f64
}
