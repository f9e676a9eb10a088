//! A method of your own: the gradient times the distance from a centre. It is then wrapped,
//! run in batches and checked as any other.
//!
//! `cargo run --release --example own_method --features flex`

use burn::{
    nn::LinearConfig,
    tensor::{Device, Tensor},
};
use saliency_core::{
    Error, Goal, Gradient, Method, Model, Outcome, Recipe, Run, SmoothGrad, Target,
};

/// The gradient times the distance from a given centre.
struct Centred {
    centre: f64,
}

impl<const D: usize> Method<D> for Centred {
    fn recipe(&self) -> Recipe {
        Recipe::Other {
            name: format!("centred at {}", self.centre),
        }
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let gradient = Gradient.attribute(model, input, goal, run)?.values;
        let distance = input.clone().sub_scalar(self.centre);
        Ok((gradient * distance).into())
    }
}

fn main() -> Result<(), Error> {
    let device = Device::flex();
    let net = LinearConfig::new(3, 2).init(&device);
    let model = |x: Tensor<2>| net.forward(x);
    let input = Tensor::<2>::from_floats([[1.0, 2.0, 3.0]], &device);

    let plain = Centred { centre: 1.0 }.explain(&model, input.clone(), Target::Predicted)?;
    println!("{}: {:?}", plain.recipe.name(), plain.to_vec()?);
    let smooth = SmoothGrad::of(Centred { centre: 1.0 }).samples(10);
    let smooth = smooth.explain(&model, input, Target::Predicted)?;
    println!("{}: {:?}", smooth.recipe.name(), smooth.to_vec()?);
    Ok(())
}
