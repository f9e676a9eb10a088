//! Bytes to weights: whatever they are, a network of finite values or a one-line error.
#![no_main]

use burn::tensor::Device;
use libfuzzer_sys::fuzz_target;
use saliency_models::{
    cifar_resnet::CifarResNetConfig,
    weights::{LoadOptions, load_bytes},
};

fuzz_target!(
    init: saliency_fuzz::report_own_panics(),
    |bytes: &[u8]| {
        // The network of the seeds.
        let config = CifarResNetConfig::new(1).with_width(2).with_classes(3);
        let net = config.init(&Device::flex()).expect("the configuration is valid");
        match load_bytes(net, bytes, "file", &LoadOptions::new()) {
            Ok(loaded) => assert_eq!(loaded.report.tensors, 37),
            Err(error) => {
                let message = error.to_string();
                assert!(message.starts_with("file: "), "{message}");
                assert!(message.lines().count() == 1 && message.len() < 2000, "{message}");
            }
        }
    }
);
