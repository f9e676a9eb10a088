//! A model at inputs that differ from rows of a batch, perhaps in few positions.

use std::cell::RefCell;

use burn::tensor::{Tensor, TensorData};

use crate::{
    error::Error,
    model::Model,
    plan::{Base, Plan},
    run::Run,
};

/// A model that is asked for outputs near some inputs. Where it has a plan, only what differs is
/// computed where that is less work; outputs are the same to the bit.
pub(crate) struct Near<'a, const D: usize> {
    model: &'a dyn Model<D>,
    input: &'a Tensor<D>,
    /// The last row that others were compared with.
    base: RefCell<Option<(usize, Base)>>,
}

impl<'a, const D: usize> Near<'a, D> {
    pub fn new(model: &'a dyn Model<D>, input: &'a Tensor<D>) -> Self {
        Near {
            model,
            input,
            base: RefCell::new(None),
        }
    }

    /// [`Run::call`] at inputs each of which was made from one of the `rows`.
    pub fn call(&self, run: &Run, changed: Tensor<D>, rows: &[usize]) -> Result<Tensor<2>, Error> {
        let model = |changed: Tensor<D>| {
            let graph = self.model.graph().filter(|_| !changed.is_tracked());
            match graph.and_then(|graph| graph.plan(&changed)) {
                Some(plan) => self.outputs(plan, changed, rows),
                None => self.model.forward(changed),
            }
        };
        Ok(run.call(&model, changed)?.inner())
    }

    /// # Panics
    /// Where a tensor cannot be read from the device.
    fn outputs(&self, plan: &Plan, changed: Tensor<D>, rows: &[usize]) -> Tensor<2> {
        let device = changed.device();
        let values: Vec<f32> = host(changed);
        let len = values.len() / rows.len();
        let of = |rows: &[usize]| -> Vec<f32> {
            let values = rows.iter().flat_map(|row| &values[row * len..][..len]);
            values.copied().collect()
        };
        let mut outputs = vec![Vec::new(); rows.len()];
        let mut put = |which: &[usize], found: Vec<f32>| {
            let columns = found.len() / which.len().max(1);
            for (&row, found) in which.iter().zip(found.chunks(columns.max(1))) {
                outputs[row] = found.to_vec();
            }
        };
        let mut base = self.base.borrow_mut();
        let mut left: Vec<usize> = (0..rows.len()).collect();
        let mut others = Vec::new();
        while let Some(&first) = left.first() {
            let row = rows[first];
            let (same, rest) = left.into_iter().partition(|&i| rows[i] == row);
            left = rest;
            if base.as_ref().is_none_or(|(last, _)| *last != row) {
                let planes = host(self.input.clone().narrow(0, row, 1));
                *base = Some((row, Base::new(planes)));
            }
            let Some((_, base)) = base.as_mut() else {
                break;
            };
            let (mut few, mut changes) = (Vec::new(), Vec::new());
            for i in same {
                let change = plan.difference(base, &values[i * len..][..len]);
                match plan.gains(&change) {
                    true => {
                        few.push(i);
                        changes.push(change);
                    }
                    false => others.push(i),
                }
            }
            put(&few, plan.run_changed(base, &of(&few), &changes));
        }
        put(&others, plan.outputs(&of(&others), others.len()));
        let columns = outputs[0].len();
        let data = TensorData::new(outputs.concat(), [rows.len(), columns]);
        Tensor::from_data(data, &device)
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().expect("a readable tensor")
}
