//! Images that somebody has damaged: an error, or a plan that keeps to the memory and to the rules.

use crate::image::tests::built;
use crate::image::{Image, LOWEST};
use std::time::{Duration, Instant};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

const EDGES: [u64; 12] =
    [0, 1, 0xfff, 0x1000, LOWEST, LOWEST - 1, u32::MAX as u64, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX - 0xfff, u64::MAX];

#[test]
fn damaged_images_are_refused_or_stay_in_their_place() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let mut random = Random::new(number("SKERRY_FUZZ_SEED", 3));
    let end = Instant::now() + Duration::from_secs(number("SKERRY_FUZZ_SECONDS", 2));
    let originals = [built(2, 2, &[]), built(2, 2, &[("storage", 1), ("service", 2)])];
    let (mut parsed, mut total) = (0, 0);
    while total % 64 != 0 || Instant::now() < end {
        total += 1;
        let mut bytes = originals[random.below(2)].clone();
        for _ in 0..1 + random.below(4) {
            // Mostly the headers and the notes: the rest is only copied.
            let at = if random.below(2) == 0 { random.below(0x120) } else { 0x400 + random.below(bytes.len() - 0x400) };
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => {
                    let word = EDGES[random.below(EDGES.len())].to_le_bytes();
                    let at = at / 8 * 8;
                    bytes.iter_mut().skip(at).zip(word).for_each(|(to, from)| *to = from);
                }
                _ => bytes.truncate(bytes.len() - random.below(64).min(bytes.len() - 0x480)),
            }
        }
        let Ok(image) = Image::parse(&bytes[..]) else { continue };
        parsed += 1;
        let memory = 1u64 << (20 + random.below(20));
        if image.fits(memory).is_err() {
            continue;
        }
        let mut last = LOWEST;
        for part in &image.parts {
            let (pages, protection) = part.protected();
            assert!(pages.start >= last && pages.end > pages.start && pages.end <= memory, "{pages:x?}");
            assert!(pages.start % 4096 == 0 && pages.end % 4096 == 0 && !(protection.write && protection.execute));
            assert!(part.fills().start >= pages.start && part.fills().end <= pages.end);
            last = pages.end;
        }
        assert!(image.parts.iter().any(|part| part.protection.execute && part.pages.contains(&image.entry)));
        let manifest = image.manifest.bytes();
        assert!(manifest.len() <= 8 + 64 * 104 && (manifest.len() - 8) % 104 == 0);
    }
    assert!(parsed > total / 50 && parsed < total, "{parsed} of {total}");
}
