//! Bytes to pictures: whatever they are, a picture within the limits or a one-line error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use saliency_models::photo::{Limits, decode};

const LIMITS: Limits = Limits {
    max_pixels: 1 << 16,
    max_bytes: 1 << 20,
};

fuzz_target!(
    init: saliency_fuzz::report_own_panics(),
    |bytes: &[u8]| {
        match decode(bytes, LIMITS) {
            Ok(photo) => {
                let (width, height) = photo.rgb.dimensions();
                assert!(width > 0 && height > 0);
                assert!(u64::from(width) * u64::from(height) <= LIMITS.max_pixels);
                if let Some(alpha) = photo.alpha {
                    assert_eq!(alpha.dimensions(), (width, height));
                }
            }
            Err(error) => {
                let message = error.to_string();
                assert!(message.starts_with("image: ") && message.lines().count() == 1);
            }
        }
    }
);
