use std::{f64::consts::PI, path::Path, thread, time::Instant};

use burn::{
    module::Module,
    nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig},
    optim::{AdamWConfig, GradientsAccumulator, GradientsParams},
    tensor::{Device, FloatDType, Int, Tensor, TensorData},
};
use saliency_models::{
    cifar_resnet::CifarResNet,
    demo,
    scenes::{Scenes, Shape},
    weights,
};

use crate::{args::TrainDemo, device, error::Error, files, progress::Bar, report};

/// Batches that the running statistics are taken over at the end.
const SETTLING: usize = 100;
/// A demo model below this accuracy is not written.
const LEAST_ACCURACY: f64 = 0.97;

pub fn run(args: &TrainDemo) -> Result<(), Error> {
    if args.out.extension().is_none_or(|e| e != "safetensors") {
        return Err(Error::Usage(format!(
            "--out {} must end in .safetensors",
            args.out.display()
        )));
    }
    if !(args.rate > 0.0 && args.rate < 1.0) {
        return Err(Error::Usage("--rate must be between 0 and 1".into()));
    }
    let device = device::open(&args.device)?;
    files::check_writable(&args.out)?;
    device.seed(args.seed);
    let started = Instant::now();
    let net = train(args, &device)?.valid();
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    let (accuracy, by_class) = test(&net, args.test as usize, &device)?;
    if accuracy < LEAST_ACCURACY && !args.keep {
        return Err(Error::Training {
            accuracy,
            least: LEAST_ACCURACY,
        });
    }
    weights::save_safetensors(&net, &args.out, FloatDType::F32)?;
    let card = card(
        args,
        &net,
        minutes,
        accuracy,
        &by_class,
        &device::describe(&device),
    );
    let card_path = args.out.with_extension("md");
    files::write(&card_path, card.as_bytes())?;
    report::print(&format!(
        "accuracy {:.2} % on {} unseen scenes after {minutes:.1} minutes\nwrote {} and {}",
        100.0 * accuracy,
        args.test,
        args.out.display(),
        card_path.display()
    ))?;
    Ok(())
}

/// Scenes as the network takes them, `[n, 3, SIZE, SIZE]`, and their classes.
struct Batch {
    pixels: TensorData,
    classes: Vec<i32>,
}

impl Batch {
    fn draw(scenes: Scenes, first: u64, count: usize) -> Self {
        let preprocess = demo::preprocess();
        let drawn: Vec<_> = (first..first + count as u64)
            .map(|i| scenes.get(i))
            .collect();
        let (width, height) = preprocess.size();
        let shape = [count, 3, height as usize, width as usize];
        let mut pixels = Vec::with_capacity(shape.iter().product());
        for scene in &drawn {
            // The scenes already have the network's size; only colours are scaled.
            let colours: Vec<[f32; 3]> = scene
                .image
                .pixels()
                .map(|p| preprocess.color(p.0))
                .collect();
            for channel in 0..3 {
                pixels.extend(colours.iter().map(|c| c[channel]));
            }
        }
        Batch {
            pixels: TensorData::new(pixels, shape),
            classes: drawn.iter().map(|s| s.shape.class() as i32).collect(),
        }
    }

    fn onto(self, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
        let classes = TensorData::from(self.classes.as_slice());
        (
            Tensor::from_data(self.pixels, device),
            Tensor::from_data(classes, device),
        )
    }
}

fn train(args: &TrainDemo, device: &Device) -> Result<CifarResNet, Error> {
    let steps = args.steps as usize;
    let device = device.clone().autodiff();
    let mut net = demo::config().init(&device)?;
    let mut optimiser = AdamWConfig::new().with_weight_decay(1e-2).init();
    let loss = CrossEntropyLossConfig::new()
        .with_smoothing(Some(0.05))
        .init(&device);
    let bar = Bar::new("steps", steps as u64);
    let replicas = (args.replicas as usize).min(args.batch as usize / 2);
    let part = args.batch as usize / replicas;
    let (mut right, mut total_loss) = (0.0, 0.0);
    for step in 0..steps {
        let first = (step * part * replicas) as u64;
        let outcomes = thread::scope(|scope| {
            let workers: Vec<_> = (0..replicas)
                .map(|replica| {
                    // Leaves and running statistics of its own: threads must not share a tape.
                    let (net, loss, device) = (net.valid().train(), &loss, &device);
                    let first = first + (replica * part) as u64;
                    scope.spawn(move || pass(net, loss, first, part, args.seed, device))
                })
                .collect();
            let join = |worker: thread::ScopedJoinHandle<_>| match worker.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            workers.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        let mut gradients = GradientsAccumulator::new();
        for outcome in outcomes {
            right += outcome.right / (part * replicas) as f32;
            total_loss += outcome.loss / replicas as f32;
            gradients.accumulate(&net, outcome.gradients);
        }
        // Each replica's loss is a mean over its own part, so the sum is `replicas` times the
        // gradient of the mean; AdamW does not feel that factor.
        net = optimiser.step(rate(step, steps, args.rate), net, gradients.grads());

        let since = step % 100 + 1;
        if since == 100 || step + 1 == steps {
            report::print(&format!(
                "step {:5}  loss {:.4}  accuracy {:.1} %",
                step + 1,
                total_loss / since as f32,
                100.0 * right / since as f32
            ))?;
            (right, total_loss) = (0.0, 0.0);
        }
        bar.set("training", step as u64 + 1, steps as u64);
    }
    Ok(settled(net.valid().train(), args, &device))
}

/// The network in inference mode, its running statistics taken with the final weights over
/// further scenes (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021): while training,
/// each replica only sees statistics of its own part.
fn settled(net: CifarResNet, args: &TrainDemo, device: &Device) -> CifarResNet {
    let scenes = Scenes::new(args.seed);
    let unused = args.steps as u64 * args.batch as u64;
    for pass in 0..SETTLING as u64 {
        let first = unused + pass * args.batch as u64;
        net.forward(
            Batch::draw(scenes, first, args.batch as usize)
                .onto(device)
                .0,
        );
    }
    net.valid()
}

/// What one replica found on its part of a batch.
struct Outcome {
    gradients: GradientsParams,
    loss: f32,
    right: f32,
}

fn pass(
    net: CifarResNet,
    loss: &CrossEntropyLoss,
    first: u64,
    count: usize,
    seed: u64,
    device: &Device,
) -> Result<Outcome, Error> {
    let (x, classes) = Batch::draw(Scenes::new(seed), first, count).onto(device);
    let logits = net.forward(x);
    let predicted = logits.clone().inner().argmax(1).flatten::<1>(0, 1);
    let hits = predicted.equal(classes.clone().inner()).int().sum();
    let value = loss.forward(logits, classes);
    Ok(Outcome {
        gradients: GradientsParams::from_grads(value.backward(), &net),
        loss: read(value.inner())?,
        right: read(hits.float())?,
    })
}

/// One cycle: a linear rise over the first tenth, then a cosine fall to zero.
fn rate(step: usize, steps: usize, most: f64) -> f64 {
    let at = (step as f64 + 0.5) / steps as f64;
    match at < 0.1 {
        true => most * at / 0.1,
        false => most * 0.5 * (1.0 + (PI * (at - 0.1) / 0.9).cos()),
    }
}

/// Accuracy over unseen scenes, overall and by class.
fn test(
    net: &CifarResNet,
    count: usize,
    device: &Device,
) -> Result<(f64, Vec<(Shape, f64)>), Error> {
    let scenes = Scenes::new(demo::TEST_SEED);
    let mut hits = [0usize; Shape::ALL.len()];
    let mut seen = hits;
    for first in (0..count).step_by(100) {
        let batch = Batch::draw(scenes, first as u64, 100.min(count - first));
        let classes = batch.classes.clone();
        let (x, _) = batch.onto(device);
        let predicted: Vec<i64> = net
            .forward(x)
            .argmax(1)
            .try_into_vec_as()
            .map_err(Error::reading)?;
        for (class, predicted) in classes.into_iter().zip(predicted) {
            seen[class as usize] += 1;
            hits[class as usize] += usize::from(predicted == class as i64);
        }
    }
    let by_class = Shape::ALL
        .into_iter()
        .map(|s| (s, hits[s.class()] as f64 / seen[s.class()].max(1) as f64))
        .collect();
    Ok((
        hits.iter().sum::<usize>() as f64 / count.max(1) as f64,
        by_class,
    ))
}

fn read(scalar: Tensor<1>) -> Result<f32, Error> {
    let values: Vec<f32> = scalar.try_into_vec_as().map_err(Error::reading)?;
    Ok(values[0])
}

fn card(
    args: &TrainDemo,
    net: &CifarResNet,
    minutes: f64,
    accuracy: f64,
    by_class: &[(Shape, f64)],
    device: &str,
) -> String {
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let classes: String = by_class
        .iter()
        .map(|(shape, accuracy)| format!("| {} | {:.1} % |\n", shape.name(), 100.0 * accuracy))
        .collect();
    format!(
        "# {file}

The demo model embedded in `saliency`.

| | |
|---|---|
| task | which of {count} shapes is in a 96x96 picture |
| architecture | CIFAR ResNet of depth 14 (He et al. 2016, option-A shortcuts), stem of stride 3, {parameters} values |
| input | RGB, 96x96, (v / 255 - 0.5) / 0.25 |
| data | scenes that the project generates (`saliency_models::scenes`), seed {seed}: {seen} scenes, each seen once |
| training | AdamW, weight decay 0.01, label smoothing 0.05, one cycle to a rate of {rate}, {steps} steps of {batch} in {replicas} parts; running statistics settled over 100 more batches |
| command | `saliency train-demo --out {file} --seed {seed} --steps {steps} --batch {batch} --replicas {replicas} --rate {rate}` |
| device | {device}, {cores} cores |
| time to train | {minutes:.1} minutes |
| accuracy | **{accuracy:.2} %** on {test} scenes of another seed, unseen in training |
| licence | MIT or Apache-2.0, as the project |

It is made to show saliency maps whose truth is known, and for nothing else. It knows one
object per picture, in the project's own drawing style.

| class | accuracy |
|---|---|
{classes}",
        file = name(&args.out),
        count = Shape::ALL.len(),
        parameters = net.num_params(),
        seed = args.seed,
        seen = args.steps * (args.batch / args.replicas * args.replicas),
        rate = args.rate,
        steps = args.steps,
        batch = args.batch,
        replicas = args.replicas,
        cores = thread::available_parallelism().map_or(1, usize::from),
        accuracy = 100.0 * accuracy,
        test = args.test,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_once_and_ends_near_zero() {
        let rates: Vec<f64> = (0..100).map(|s| rate(s, 100, 1.0)).collect();
        let top = rates.iter().copied().fold(0.0, f64::max);
        assert!(top > 0.94 && top <= 1.0);
        assert!(rates[..10].is_sorted() && rates[10..].is_sorted_by(|a, b| a >= b));
        assert!(rates[99] < 1e-3);
    }

    #[test]
    fn batches_are_the_scenes_preprocessed() {
        let scenes = Scenes::new(3);
        let batch = Batch::draw(scenes, 5, 2);
        let (x, _) = batch.onto(&Device::flex());
        let want = demo::preprocess()
            .apply(&scenes.get(6).image, &Device::flex())
            .unwrap();
        assert_eq!(x.narrow(0, 1, 1).into_data(), want.into_data());
    }
}
