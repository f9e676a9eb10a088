use burn::tensor::{Device, Tensor};
use saliency_models::{
    demo,
    zoo::{Architecture, Network},
};

use crate::{args::Layers, device, error::Error, report};

pub fn run(args: &Layers) -> Result<(), Error> {
    let device = device::open("cpu")?;
    let (network, side) = network(&args.model, &device)?;
    let graph = network.trace(&Tensor::zeros([1, 3, side, side], &device))?;
    let layers = graph.layers();
    if args.json {
        return report::print_json(&layers);
    }
    let cells = layers.into_iter().map(|layer| {
        vec![
            layer.name,
            layer.op,
            layer.shape,
            match layer.parameters {
                0 => String::new(),
                count => count.to_string(),
            },
        ]
    });
    let header = ["layer", "operation", "output", "parameters"];
    report::print(&report::table(&header, cells))
}

/// The network without its weights, and the side of its pictures.
pub(super) fn network(name: &str, device: &Device) -> Result<(Network, usize), Error> {
    if name == "demo" {
        let side = saliency_models::scenes::SIZE;
        return Ok((Network::CifarResNet(demo::load(device)?), side));
    }
    let architecture: Architecture = name
        .parse()
        .map_err(|e| Error::Usage(format!("{e}, demo")))?;
    let network = architecture
        .init(architecture.classes(), device)
        .map_err(|e| Error::Internal(e.to_string()))?;
    Ok((network, architecture.input_size()))
}
