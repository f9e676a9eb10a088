use saliency_models::{demo, fetch, zoo::Architecture};
use serde::Serialize;

use crate::{args::Listing, device, error::Error, report};

#[derive(Serialize)]
struct Row {
    name: String,
    parameters: usize,
    input: usize,
    classes: usize,
    weights: String,
}

pub fn run(args: &Listing) -> Result<(), Error> {
    let mut rows: Vec<Row> = Architecture::ALL
        .into_iter()
        .map(|architecture| Row {
            name: architecture.to_string(),
            parameters: architecture.parameter_count(),
            input: architecture.input_size(),
            classes: architecture.classes(),
            weights: weights(architecture.name()),
        })
        .collect();
    let net = demo::load(&device::host().or_else(|_| device::open("auto"))?)?;
    rows.push(Row {
        name: "demo".into(),
        parameters: trainable(&net),
        input: saliency_models::scenes::SIZE,
        classes: demo::labels().len(),
        weights: "embedded".into(),
    });
    if args.json {
        return report::print_json(&rows);
    }
    let cells = rows.iter().map(|r| {
        let side = format!("{0}x{0}", r.input);
        vec![
            r.name.clone(),
            r.parameters.to_string(),
            side,
            r.classes.to_string(),
            r.weights.clone(),
        ]
    });
    let header = ["model", "parameters", "input", "classes", "weights"];
    report::print(&report::table(&header, cells))
}

fn weights(name: &str) -> String {
    match fetch::cached(name, &fetch::Options::default()) {
        Some(path) => path.display().to_string(),
        None if fetch::PUBLISHED.iter().any(|p| p.name == name) => {
            format!("`saliency fetch {name}`")
        }
        None => "--weights FILE".into(),
    }
}

/// Parameters without the running statistics of normalisation.
fn trainable(net: &impl burn::module::Module) -> usize {
    use burn::{
        module::{ModuleVisitor, Param},
        tensor::Tensor,
    };
    struct Count(usize);
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 += param.val().dims().iter().product::<usize>();
        }
    }
    let mut count = Count(0);
    net.visit(&mut count);
    count.0
}
