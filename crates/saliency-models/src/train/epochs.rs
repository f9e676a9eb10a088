use std::ops::ControlFlow;

use burn::{
    grad_clipping::GradientClippingConfig,
    module::Module,
    nn::loss::CrossEntropyLossConfig,
    optim::{AdamWConfig, GradientsParams},
    tensor::{Device, Int, Tensor, TensorData},
};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    data::{Layout, Moments, Task},
    predictor::{Architecture, Predictor},
};

use super::{TrainError, dataset::Dataset, options::TrainOptions, split::Part};

/// How far training has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Passes over the training rows that are done.
    pub epoch: usize,
    /// Most passes there will be.
    pub epochs: usize,
    /// Mean training loss of the last pass.
    pub training_loss: f64,
    /// Validation loss after it.
    pub validation_loss: f64,
    /// The lowest validation loss so far.
    pub best_loss: f64,
}

/// What training ended with.
pub(super) struct Outcome {
    /// The weights with the lowest validation loss.
    pub(super) predictor: Predictor,
    pub(super) epochs: usize,
    pub(super) best_epoch: usize,
    /// Scale of each output of a regression.
    pub(super) scales: Vec<(f64, f64)>,
}

/// Rows of one forward pass that needs no gradient.
const CHUNK: usize = 1024;

pub(super) struct Trainer<'a> {
    pub(super) options: &'a TrainOptions,
    pub(super) layout: &'a Layout,
    pub(super) dataset: &'a Dataset,
    pub(super) device: &'a Device,
}

impl Trainer<'_> {
    pub(super) fn run(
        &self,
        architecture: &Architecture,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, TrainError> {
        let options = self.options;
        let count = self.dataset.len(Part::Training);
        let batch = options.chosen_batch(count);
        let scales = self.scales();
        let weights = self.class_weights();
        let plain = self.device.clone().inner();
        let device = plain.clone().autodiff();
        // What was set by hand is not on the tape by itself.
        let mut net = architecture.seeded(options.seed, &device)?.unfreeze();
        let mut optimiser = AdamWConfig::new()
            .with_weight_decay(options.decay as f32)
            .with_epsilon(1e-8)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
            .init();
        let mut rate = options.rate;
        let mut order: Vec<usize> = (0..count).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        rng.set_stream(1);
        let mut best = (f64::INFINITY, 0, net.valid());
        let mut epoch = 0;
        while epoch < options.epochs {
            order.shuffle(&mut rng);
            let mut total = 0.0;
            for picked in order.chunks(batch) {
                let loss = self.loss(&net, Part::Training, picked, &scales, &weights, &device);
                total += scalar(loss.clone().inner())? * picked.len() as f64;
                let gradients = GradientsParams::from_grads(loss.backward(), &net);
                net = optimiser.step(rate, net, gradients);
            }
            epoch += 1;
            let valid = net.valid();
            let validation_loss =
                self.mean_loss(&valid, Part::Validation, &scales, &weights, &plain)?;
            if !validation_loss.is_finite() || !total.is_finite() {
                return Err(TrainError::Diverged { epoch, rate });
            }
            if validation_loss < best.0 {
                best = (validation_loss, epoch, valid);
            }
            let state = Progress {
                epoch,
                epochs: options.epochs,
                training_loss: total / count as f64,
                validation_loss,
                best_loss: best.0,
            };
            if progress(state).is_break() {
                return Err(TrainError::Cancelled);
            }
            let without = epoch - best.1;
            if without >= options.patience {
                break;
            }
            if without > 0 && without.is_multiple_of(options.patience.div_ceil(2)) {
                rate /= 2.0;
            }
        }
        Ok(Outcome {
            predictor: best.2,
            epochs: epoch,
            best_epoch: best.1,
            scales,
        })
    }

    /// Mean and deviation of the training targets, for each output of a regression.
    fn scales(&self) -> Vec<(f64, f64)> {
        if self.layout.task != Task::Regression {
            return Vec::new();
        }
        let mut moments = vec![Moments::default(); self.layout.outputs()];
        for (index, target) in self
            .dataset
            .all_targets(Part::Training)
            .into_iter()
            .enumerate()
        {
            let outputs = moments.len();
            moments[index % outputs].add(target);
        }
        let scale = |m: &Moments| (m.mean, if m.std() > 0.0 { m.std() } else { 1.0 });
        moments.iter().map(scale).collect()
    }

    /// How much each class counts: all alike, or by how rare it is.
    fn class_weights(&self) -> Option<Vec<f32>> {
        if !self.options.balance || self.layout.task == Task::Regression {
            return None;
        }
        let mut counts = vec![0usize; self.layout.outputs()];
        for class in self.dataset.all_targets(Part::Training) {
            counts[class as usize] += 1;
        }
        let all: usize = counts.iter().sum();
        let classes = counts.len();
        let weight = |count: &usize| all as f32 / (classes * (*count).max(1)) as f32;
        Some(counts.iter().map(weight).collect())
    }

    fn loss(
        &self,
        net: &Predictor,
        part: Part,
        picked: &[usize],
        scales: &[(f64, f64)],
        weights: &Option<Vec<f32>>,
        device: &Device,
    ) -> Tensor<1> {
        let outputs = forward(net, self.layout, self.dataset.inputs(part, picked), device);
        let targets = picked
            .iter()
            .flat_map(|index| self.dataset.targets(part, *index));
        match self.layout.task {
            Task::Classification { .. } => {
                let classes: Vec<i32> = targets.map(|class| *class as i32).collect();
                let classes = Tensor::<1, Int>::from_data(TensorData::from(&classes[..]), device);
                CrossEntropyLossConfig::new()
                    .with_weights(weights.clone())
                    .init(device)
                    .forward(outputs, classes)
            }
            Task::Regression => {
                let scaled: Vec<f32> = targets
                    .enumerate()
                    .map(|(i, target)| {
                        let (mean, std) = scales[i % scales.len()];
                        ((target - mean) / std) as f32
                    })
                    .collect();
                let shape = [picked.len(), scales.len()];
                let scaled = Tensor::<2>::from_data(TensorData::new(scaled, shape), device);
                (outputs - scaled).square().mean()
            }
        }
    }

    fn mean_loss(
        &self,
        net: &Predictor,
        part: Part,
        scales: &[(f64, f64)],
        weights: &Option<Vec<f32>>,
        device: &Device,
    ) -> Result<f64, TrainError> {
        let all: Vec<usize> = (0..self.dataset.len(part)).collect();
        let mut total = 0.0;
        for picked in all.chunks(CHUNK) {
            let loss = self.loss(net, part, picked, scales, weights, device);
            total += scalar(loss)? * picked.len() as f64;
        }
        Ok(total / all.len() as f64)
    }

    /// Outputs for all examples of a part.
    pub(super) fn outputs(&self, net: &Predictor, part: Part) -> Result<Vec<f64>, TrainError> {
        let all: Vec<usize> = (0..self.dataset.len(part)).collect();
        let mut outputs = Vec::new();
        for picked in all.chunks(CHUNK) {
            let inputs = self.dataset.inputs(part, picked);
            let chunk = forward(net, self.layout, inputs, &self.device.clone().inner());
            outputs.extend(chunk.try_into_vec_as::<f64>().map_err(TrainError::device)?);
        }
        Ok(outputs)
    }
}

fn forward(net: &Predictor, layout: &Layout, inputs: Vec<f32>, device: &Device) -> Tensor<2> {
    let (steps, width) = (layout.steps(), layout.encoder.width());
    let rows = inputs.len() / (steps * width);
    match layout.window {
        Some(_) => {
            let data = TensorData::new(inputs, [rows, steps, width]);
            net.forward_sequence(Tensor::from_data(data, device))
        }
        None => {
            let data = TensorData::new(inputs, [rows, width]);
            net.forward_table(Tensor::from_data(data, device))
        }
    }
}

fn scalar(loss: Tensor<1>) -> Result<f64, TrainError> {
    let values: Vec<f64> = loss.try_into_vec_as().map_err(TrainError::device)?;
    Ok(values[0])
}
