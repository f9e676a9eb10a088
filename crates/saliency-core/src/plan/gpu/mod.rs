//! A plan on a GPU: the same steps as on the CPU, each one kernel of this crate, on whatever
//! device Burn's CubeCL backend runs (wgpu, Vulkan, Metal, CUDA, ROCm).
//!
//! Convolutions and linear layers are products of windows and weights with bias, residual
//! addition and ReLU fused to them, forward and backward. Nothing comes to the host: input,
//! outputs and gradients are Burn's tensors, and what the backward pass needs stays in the
//! memory of the device. Values are f32 and products are added up in f32.
//!
//! Of several GPUs only the first that a graph meets has a plan.

mod backward;
mod constants;
mod exchange;
mod forward;
mod kernel;

#[cfg(all(test, feature = "wgpu"))]
mod tests;
#[cfg(all(test, feature = "wgpu"))]
pub(super) use tests::agrees;

use std::ops::Range;

use burn::tensor::{DType, Tensor};
use burn_cubecl::{CubeDevice, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::client::Client;

use self::{
    constants::Constants,
    exchange::{device_of, given, taken},
    kernel::{Values, to_planes, to_values},
};
use super::{kernel::Isa, parts, run::ReluRule, step::Step};
use crate::{error::Error, graph::Graph, target::Goal};
pub(crate) use forward::Tape;

/// A GPU.
#[derive(Clone)]
pub(crate) struct Device {
    client: Client,
    device: CubeDevice,
}

/// A graph compiled for a GPU.
pub(crate) struct Plan {
    client: Client,
    device: CubeDevice,
    /// Whose steps these are; its weights are on the device only.
    plan: super::Plan,
    /// By step.
    constants: Vec<Constants>,
    /// How many go through at once.
    rows: usize,
}

/// Units and shared memory that the kernels need.
const UNITS: u32 = 256;
const SHARED: usize = 16 << 10;

impl Plan {
    /// `None` where the graph has operations that plans do not know, or the device is too small
    /// for these kernels.
    ///
    /// # Errors
    /// Where the device has no memory for the weights, or fails.
    pub fn new(graph: &Graph, device: &Device) -> Result<Option<Self>, Error> {
        let Device { client, device } = device.clone();
        let hardware = &client.properties().hardware;
        if hardware.max_units_per_cube < UNITS || hardware.max_shared_memory_size < SHARED {
            return Ok(None);
        }
        let Some(mut plan) = super::Plan::with(graph, Isa::Portable) else {
            return Ok(None);
        };
        let constants = plan.steps.iter_mut();
        let constants: Option<Vec<_>> = constants
            .map(|step| Constants::new(&client, step))
            .collect();
        let Some(constants) = constants else {
            return Ok(None);
        };
        client
            .check(constants.iter().flat_map(Constants::handles))
            .map_err(Error::device)?;
        let rows = rows_at_once(&client, &plan);
        Ok((rows > 0).then_some(Plan {
            client,
            device,
            plan,
            constants,
            rows,
        }))
    }

    /// The GPU a tensor is on, if it is one.
    pub fn device_of<const D: usize>(input: &Tensor<D>) -> Option<Device> {
        let device = device_of(input)?;
        let client = device.client();
        Some(Device { client, device })
    }

    pub fn is_on(&self, device: &Device) -> bool {
        self.device == device.device
    }

    /// Outputs of a batch.
    pub fn run<const D: usize>(&self, input: Tensor<D>) -> Tensor<2> {
        let rows = input.dims()[0];
        let outputs = self
            .parts(rows)
            .map(|range| self.forward(&narrowed(&input, &range), false, None).0);
        joined(outputs.collect())
    }

    /// Outputs of a batch, and what a backward pass to the input needs, or one to a node. `None`
    /// where the batch does not go through at once.
    pub fn record<const D: usize>(
        &self,
        input: Tensor<D>,
        node: Option<&str>,
    ) -> Option<(Tensor<2>, Tape)> {
        let tap = node.map(|node| self.plan.named[node]);
        (input.dims()[0] <= self.rows).then(|| self.forward(&input, true, tap))
    }

    /// The gradient at the input, shaped like it, from that at the outputs.
    pub fn gradient<const D: usize>(
        &self,
        tape: &Tape,
        seed: Tensor<2>,
        rule: ReluRule,
    ) -> Tensor<D> {
        let seed = self.values(seed, self.plan.output);
        self.tensor(&self.backward(tape, seed, rule))
    }

    /// Outputs of a batch and the gradient at the input, from `seed`: the gradient at the
    /// outputs of some of its rows.
    pub fn outputs_and_gradient<const D: usize>(
        &self,
        input: Tensor<D>,
        rule: ReluRule,
        seed: impl Fn(Range<usize>, &Tensor<2>) -> Result<Tensor<2>, Error>,
    ) -> Result<(Tensor<2>, Tensor<D>), Error> {
        let (mut all, mut gradients) = (Vec::new(), Vec::new());
        for range in self.parts(input.dims()[0]) {
            let part = narrowed(&input, &range);
            let (outputs, tape) = self.forward(&part, true, None);
            let seed = seed(range, &outputs)?;
            gradients.push(self.gradient(&tape, seed, rule));
            all.push(outputs);
        }
        Ok((joined(all), joined(gradients)))
    }

    /// Whether a node's values and the gradient at them can be had.
    pub fn taps(&self, node: &str) -> bool {
        self.plan.taps(node)
    }

    /// The values of a node and the gradient of the score at them, `[rows, channels, height,
    /// width]` each.
    pub fn at_node(
        &self,
        input: Tensor<4>,
        node: &str,
        goal: &Goal,
    ) -> Result<(Tensor<4>, Tensor<4>), Error> {
        let tap = Some(self.plan.named[node]);
        let (mut values, mut gradients) = (Vec::new(), Vec::new());
        for range in self.parts(input.dims()[0]) {
            let (outputs, tape) = self.forward(&narrowed(&input, &range), true, tap);
            let goal = goal.slice(range.start, range.end);
            let (value, gradient) = self.at_recorded(&outputs, &tape, &goal)?;
            values.push(value);
            gradients.push(gradient);
        }
        Ok((joined(values), joined(gradients)))
    }

    /// The same of the node that a batch was recorded for.
    pub fn at_recorded(
        &self,
        outputs: &Tensor<2>,
        tape: &Tape,
        goal: &Goal,
    ) -> Result<(Tensor<4>, Tensor<4>), Error> {
        let gradient = self.gradient(tape, goal.seed(outputs)?, ReluRule::Derivative);
        Ok((self.tensor(tape.tapped()), gradient))
    }

    fn parts(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        parts(rows, self.rows)
    }

    fn forward<const D: usize>(
        &self,
        input: &Tensor<D>,
        keep: bool,
        tap: Option<usize>,
    ) -> (Tensor<2>, Tape) {
        let values = self.values(input.clone(), self.plan.input);
        let (outputs, tape) = self.pass(values, keep, tap);
        (self.tensor(&outputs), tape)
    }

    /// A tensor `[rows, channels, height, width]` as the values of a buffer.
    fn values<const D: usize>(&self, tensor: Tensor<D>, buffer: usize) -> Values {
        let tensor = taken(tensor).expect("checked to be on this device");
        let tensor = into_contiguous(tensor);
        let geometry = self.plan.buffers[buffer];
        let (rows, len) = (
            tensor.meta.shape()[0],
            geometry.positions() * geometry.channels,
        );
        assert_eq!(tensor.meta.shape().num_elements(), rows * len);
        assert_eq!(tensor.dtype, DType::F32);
        let mut values = Values::empty(&self.client, geometry, rows);
        to_values(&self.client, &tensor.handle, &mut values);
        values
    }

    /// Values as a tensor `[rows, outputs]` or `[rows, channels, height, width]`.
    fn tensor<const D: usize>(&self, values: &Values) -> Tensor<D> {
        let Values {
            rows,
            channels,
            height,
            width,
            ..
        } = *values;
        let shape = match D {
            2 => vec![rows, height * width * channels],
            _ => vec![rows, channels, height, width],
        };
        let made = CubeTensor::new_contiguous(
            self.client.clone(),
            self.device.clone(),
            shape.into(),
            to_planes(&self.client, values),
            DType::F32,
        );
        given(made)
    }
}

/// Bytes that all that is kept for the backward pass may take where the device does not say how
/// much memory it has; else a quarter of it.
const KEPT: u64 = 4 << 30;

/// As many rows as kernels can index and the device has memory for.
fn rows_at_once(client: &Client, plan: &super::Plan) -> usize {
    let properties = client.properties();
    let (along, _, deep) = properties.hardware.max_cube_count;
    let bytes = (properties.memory.max_page_size as usize).min(u32::MAX as usize);
    let values = bytes / size_of::<f32>();
    let budget = properties.memory.max_memory().map_or(KEPT, |all| all / 4);
    let budget = usize::try_from(budget).unwrap_or(usize::MAX);
    let mut kept = plan.kept;
    let mut rows = usize::MAX;
    for (buffer, rectified) in plan.buffers.iter().zip(&plan.rectified) {
        let positions = buffer.positions().max(1);
        let row = positions * buffer.channels.max(1);
        let by_cubes = (along as usize).saturating_mul(4 * kernel::SIDE) / positions;
        rows = rows.min(by_cubes).min(values / row);
        kept += if *rectified { row } else { 0 };
    }
    for step in &plan.steps {
        if let Step::Attention(attention) = step {
            let scores = attention.queries.positions * attention.keys.positions;
            let squares = kernel::squares(attention.queries.positions, attention.keys.positions);
            if squares > along as usize {
                return 0;
            }
            let by_cubes = deep as usize / attention.heads;
            rows = rows.min(by_cubes).min(values / (scores * attention.heads));
        }
    }
    let by_memory = budget / size_of::<f32>() / kept.max(1);
    rows.min(by_memory.max(1))
}

fn narrowed<const D: usize>(tensor: &Tensor<D>, range: &Range<usize>) -> Tensor<D> {
    match range.len() == tensor.dims()[0] {
        true => tensor.clone(),
        false => tensor.clone().narrow(0, range.start, range.len()),
    }
}

fn joined<const D: usize>(mut parts: Vec<Tensor<D>>) -> Tensor<D> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 0),
    }
}
