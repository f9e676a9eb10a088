//! Published, trained weights on real photographs, where the folder of test material is
//! there: `$SALIENCY_DATA`, or `shared/data` beside the checkout.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Tensor};
use saliency_core::{Gradient, Method, Model, Reduction, Target};
use saliency_models::{
    photo,
    preprocess::{Preprocess, Resize},
    zoo::{Architecture, Network},
};

use crate::parity::{announce, material};

/// Photographs with an ImageNet class, from the manifest.
fn labelled(folder: &Path) -> Vec<(PathBuf, usize)> {
    fs::read_to_string(folder.join("images/manifest.tsv"))
        .unwrap()
        .lines()
        .skip(1)
        .filter_map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let class = columns.get(4)?.trim().parse().ok()?;
            let path = folder.join("images").join(columns[0]);
            let is_mask = columns[0].contains("_mask");
            (!is_mask).then_some((path, class))
        })
        .collect()
}

fn squeezenet(folder: &Path) -> Network {
    let path = folder.join("weights/squeezenet1_1_imagenet_caffe.safetensors");
    Architecture::SqueezeNet1_1
        .load(path, &Device::flex())
        .unwrap()
}

/// How many classes score higher than the true one, for each photograph.
fn ranks(folder: &Path, preprocess: &Preprocess) -> Vec<usize> {
    let net = squeezenet(folder);
    labelled(folder)
        .iter()
        .map(|(path, class)| {
            let picture = photo::open(path, Default::default()).unwrap().rgb;
            let x = preprocess.apply(&picture, &Device::flex()).unwrap();
            let logits: Vec<f32> = net.forward(x).try_into_vec_as().unwrap();
            logits.iter().filter(|l| **l > logits[*class]).count()
        })
        .collect()
}

/// A plain resize, by the nearest pixel; smoothed ones cost places, see below.
#[test]
fn squeezenet_knows_the_labelled_photographs() {
    let Some(folder) = material("") else {
        return;
    };
    let resizes = [
        Resize::Nearest {
            width: 227,
            height: 227,
        },
        Resize::ShortestSideThenCrop {
            side: 256,
            crop: 227,
        },
    ];
    for resize in resizes {
        let preprocess = Preprocess {
            resize,
            ..Preprocess::squeezenet_caffe()
        };
        let ranks = ranks(&folder, &preprocess);
        let within = |most| ranks.iter().filter(|rank| **rank < most).count();
        announce(&format!(
            "SqueezeNet, {resize:?}: {} of {} photographs first, {} in the top five",
            within(1),
            ranks.len(),
            within(5)
        ));
        assert_eq!((ranks.len(), within(5)), (11, 11), "{ranks:?}");
        assert!(within(1) >= 6, "{ranks:?}");
    }
}

/// Stretched to 227x227 with Pillow's antialiased filter, PyTorch ranks the true classes like this.
#[test]
fn squeezenet_ranks_stretched_photographs_as_pytorch_does() {
    let Some(folder) = material("") else {
        return;
    };
    let ranks = ranks(&folder, &Preprocess::squeezenet_caffe());
    assert_eq!(ranks, [1, 0, 7, 0, 1, 1, 2, 2, 1, 0, 0]);
}

#[test]
fn squeezenet_maps_of_a_photograph_are_finite_and_not_flat() {
    let Some(folder) = material("") else {
        return;
    };
    let net = squeezenet(&folder);
    let path = folder.join("images/coral_parrot.jpg");
    let picture = photo::open(path, Default::default()).unwrap().rgb;
    let x = Preprocess::squeezenet_caffe()
        .apply(&picture, &Device::flex())
        .unwrap();
    let model: &dyn Model<4> = &net;
    let attribution = Gradient.explain(model, x, Target::Predicted).unwrap();
    let map = attribution.maps(Reduction::Max).unwrap().remove(0);
    let statistics = saliency_core::Statistics::of(map.values()).unwrap();
    assert!(statistics.max_to_mean > 5.0, "{statistics:?}");
}

#[test]
fn the_published_cifar_networks_load_and_run() {
    let Some(folder) = material("") else {
        return;
    };
    for (architecture, file) in [
        (Architecture::CifarResNet20, "resnet20-12fca82f.th"),
        (Architecture::CifarResNet56, "resnet56-4bfd9763.th"),
    ] {
        let net = architecture
            .load(folder.join("weights").join(file), &Device::flex())
            .unwrap();
        let x = Tensor::<4>::zeros([1, 3, 32, 32], &Device::flex());
        let attribution = Gradient.explain(&net, x, Target::Predicted).unwrap();
        assert_eq!(attribution.outputs.dims(), [1, 10]);
    }
}
