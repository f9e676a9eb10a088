//! What is measured.

use burn::tensor::Tensor;
use saliency_core::{
    DeepLift, Goal, GradCam, Gradient, Graph, GuidedBackprop, IntegratedGradients, Method,
    Occlusion, Rise, Run, SmoothGrad, Target,
};

use crate::{Failure, Request};

/// The result of a work.
#[derive(Default)]
pub struct Found {
    pub values: Vec<f32>,
    pub shape: Vec<usize>,
    /// Sum of the values minus what they should add up to, and that.
    pub delta: Option<Vec<f64>>,
    pub gap: Option<Vec<f64>>,
    /// Rows that went forward and back.
    pub gradients: usize,
    /// Steps or samples that a tolerance led to.
    pub taken: Option<usize>,
}

/// Runs a work once: the target is known, as it is to Captum. `explain` finds it first.
pub fn run(
    request: &Request,
    graph: &Graph,
    x: &Tensor<4>,
    (outputs, goal): (&Tensor<2>, &Goal),
    run: &Run,
) -> Result<Found, Failure> {
    if request.work == "forward" {
        let outputs = run.forward(graph, x)?;
        return Ok(Found {
            shape: outputs.dims().to_vec(),
            values: outputs.try_into_vec_as::<f32>()?,
            ..Found::default()
        });
    }
    if request.work == "input" {
        return Ok(Found {
            shape: x.dims().to_vec(),
            values: x.clone().try_into_vec_as::<f32>()?,
            ..Found::default()
        });
    }
    let method = method(request)?;
    let found = match request.work.as_str() {
        "explain" => method.explain_with(graph, x.clone(), &Target::Predicted, run)?,
        _ => method.explain_goal(graph, x, outputs.clone(), goal, run)?,
    };
    let gap = match found.evidence.delta {
        Some(_) => {
            let zero = run.forward(graph, &x.zeros_like())?;
            let zero = goal.scores(zero)?.try_into_vec_as::<f64>()?;
            let scores = found.scores.iter().zip(zero);
            Some(scores.map(|(score, zero)| score - zero).collect())
        }
        None => None,
    };
    Ok(Found {
        shape: found.values.dims().to_vec(),
        gradients: found.evaluations.gradient,
        taken: found.evidence.samples,
        delta: found.evidence.delta,
        values: found.values.try_into_vec_as::<f32>()?,
        gap,
    })
}

fn method(request: &Request) -> Result<Box<dyn Method<4>>, Failure> {
    Ok(match request.work.as_str() {
        "gradient" | "explain" => Box::new(Gradient),
        "smoothgrad" => Box::new(
            SmoothGrad::new()
                .samples(request.samples)
                .seed(request.seed),
        ),
        "integrated-gradients" => {
            let plain = IntegratedGradients::new().steps(request.samples);
            let plain = plain.rule(request.rule);
            Box::new(match request.tolerance {
                Some(tolerance) => plain.tolerance(tolerance).max_steps(request.most),
                None => plain,
            })
        }
        "grad-cam" => Box::new(GradCam::new().layer(request.layer.as_str())),
        "guided-backprop" => Box::new(GuidedBackprop),
        "deeplift" => Box::new(DeepLift::captum()),
        "occlusion" => Box::new(Occlusion::new().window([16]).stride([8])),
        "rise" => Box::new(Rise::new().samples(request.samples).seed(request.seed)),
        other => return Err(format!("unknown work {other}").into()),
    })
}
