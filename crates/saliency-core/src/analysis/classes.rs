use burn::tensor::Tensor;

use crate::{
    attribution::{Attribution, probabilities},
    error::Error,
    host::check_finite,
    map::pearson,
    method::{Method, checked, outputs},
    model::Model,
    run::Run,
    target::{Goal, Target},
};

/// Which classes to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classes {
    /// The `k` classes with the largest outputs of each row, best first.
    Top(usize),
    /// These classes, for every row.
    List(Vec<usize>),
}

/// Attributions of several classes at the same inputs.
#[derive(Clone, Debug)]
pub struct Comparison<const D: usize> {
    /// The compared classes of each input row.
    pub classes: Vec<Vec<usize>>,
    /// Softmax probabilities of those classes.
    pub probabilities: Vec<Vec<f64>>,
    /// One row per input row and class: all classes of row 0, then of row 1, ...
    pub attribution: Attribution<D>,
}

/// Attributions of several classes in **one** batched run: the input is repeated once per
/// class and each copy has its own target.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Gradient, Run, analysis::{Classes, compare_classes}};
/// let identity = |x: Tensor<2>| x;
/// let x = Tensor::<2>::from_floats([[0.1, 0.7, 0.2]], &Device::flex());
/// let top = compare_classes(&Gradient, &identity, x, &Classes::Top(2), &Run::new())?;
/// assert_eq!(top.classes, [[1, 2]]);
/// assert_eq!(top.attribution.to_vec()?, [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownClass`], [`Error::Option`] for an empty choice, and whatever the method
/// returns.
pub fn compare_classes<const D: usize>(
    method: &impl Method<D>,
    model: &dyn Model<D>,
    input: Tensor<D>,
    classes: &Classes,
    run: &Run,
) -> Result<Comparison<D>, Error> {
    method.validate()?;
    let input = checked(input)?;
    let (outputs, recorded) = outputs(model, &input, method.reads(), run)?;
    check_finite("the model's output", &outputs)?;
    let [rows, columns] = outputs.dims();
    let logits = outputs
        .clone()
        .try_into_vec_as::<f64>()
        .map_err(Error::device)?;
    let chosen: Vec<Vec<usize>> = match classes {
        Classes::Top(k) => {
            if *k == 0 || *k > columns {
                let requirement = "top-k needs a k from 1 to the number of classes";
                return Err(Error::option("k", k, requirement));
            }
            logits.chunks(columns).map(|row| top(row, *k)).collect()
        }
        Classes::List(list) if list.is_empty() => {
            return Err(Error::option("classes", "[]", "give at least one class"));
        }
        Classes::List(list) => vec![list.clone(); rows],
    };
    let count = chosen[0].len();
    let repeated = repeat_rows(input, count);
    let outputs = repeat_rows(outputs, count);
    let goal = Goal::resolve(&Target::PerRow(chosen.concat()), &outputs)?;
    let recorded = recorded.map(|r| r.select((0..rows * count).map(|row| row / count)));
    let goal = goal.with_record(recorded);
    let probabilities = probabilities(&outputs)?
        .iter()
        .zip(chosen.concat())
        .map(|(row, class)| row[class])
        .collect::<Vec<_>>()
        .chunks(count)
        .map(<[f64]>::to_vec)
        .collect();
    Ok(Comparison {
        classes: chosen,
        probabilities,
        attribution: method.explain_goal(model, &repeated, outputs, &goal, run)?,
    })
}

/// Each row `times` times in succession.
fn repeat_rows<const D: usize>(tensor: Tensor<D>, times: usize) -> Tensor<D> {
    let rows = tensor.dims()[0];
    let copies = (0..rows)
        .map(|row| tensor.clone().narrow(0, row, 1).repeat_dim(0, times))
        .collect();
    crate::run::join(copies)
}

fn top(row: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    order.truncate(k);
    order
}

/// The class-discrimination test: Pearson's correlation of every map with every other.
///
/// A method that explains the class gives classes different maps; correlations near 1
/// between classes mean that it shows the input instead.
///
/// ```
/// use saliency_core::{Map, analysis::correlations};
/// let map = |values: &[f32]| Map::new(1, 3, values.to_vec()).unwrap();
/// let matrix = correlations(&[map(&[0.0, 1.0, 2.0]), map(&[2.0, 1.0, 0.0])])?;
/// assert_eq!(matrix, [[1.0, -1.0], [-1.0, 1.0]]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] when the maps differ in size.
pub fn correlations(maps: &[crate::Map]) -> Result<Vec<Vec<f64>>, Error> {
    let size = |m: &crate::Map| vec![m.height(), m.width()];
    if let Some(odd) = maps.iter().find(|m| size(m) != size(&maps[0])) {
        return Err(Error::Shape {
            what: "a compared map",
            expected: format!("{:?}, like the first", size(&maps[0])),
            got: size(odd),
        });
    }
    Ok(maps
        .iter()
        .map(|a| {
            maps.iter()
                .map(|b| pearson(a.values(), b.values()))
                .collect()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Gradient, Reduction, SmoothGrad,
        methods::testing::{Net, assert_close, image},
    };
    use burn::tensor::Device;
    use std::cell::Cell;

    #[test]
    fn one_pass_equals_one_run_per_class() {
        let net = Net::relu(&Device::flex());
        let x = image(2, 3);
        let list = Classes::List(vec![3, 0, 1]);
        let smooth = SmoothGrad::new().samples(4);
        let all = compare_classes(&smooth, &net, x.clone(), &list, &Run::new()).unwrap();
        for row in 0..2 {
            for (k, class) in [3usize, 0, 1].into_iter().enumerate() {
                let one = smooth
                    .explain(&net, x.clone().narrow(0, row, 1), class)
                    .unwrap();
                let p = one.probabilities().unwrap();
                let got = all.attribution.values.clone().narrow(0, row * 3 + k, 1);
                assert_close(got, one.values, 1e-5);
                let p = p[0][class];
                assert!((all.probabilities[row][k] - p).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn the_model_is_called_twice_however_many_classes() {
        let net = Net::relu(&Device::flex());
        let calls = Cell::new(0);
        let counted = |x: Tensor<4>| {
            calls.set(calls.get() + 1);
            net.forward(x)
        };
        let top = Classes::Top(4);
        compare_classes(&Gradient, &counted, image(1, 1), &top, &Run::new()).unwrap();
        assert_eq!(calls.get(), 2);
    }

    #[test]
    fn top_k_is_best_first_and_checked() {
        let net = Net::relu(&Device::flex());
        let compare =
            |classes| compare_classes(&Gradient, &net, image(1, 1), &classes, &Run::new());
        let all = compare(Classes::Top(4)).unwrap();
        assert!(all.probabilities[0].is_sorted_by(|a, b| a >= b));
        assert!((all.probabilities[0].iter().sum::<f64>() - 1.0).abs() < 1e-9);
        for bad in [Classes::Top(0), Classes::Top(5), Classes::List(vec![])] {
            assert!(matches!(compare(bad).unwrap_err(), Error::Option { .. }));
        }
        let unknown = compare(Classes::List(vec![0, 9])).unwrap_err();
        assert!(matches!(unknown, Error::UnknownClass { class: 9, .. }));
    }

    #[test]
    fn classes_of_a_discriminating_model_are_uncorrelated() {
        // Class c sums channel-free quadrant c, so gradients do not overlap.
        let quadrants = |x: Tensor<4>| {
            let part = |top: usize, left: usize| -> Tensor<2> {
                x.clone()
                    .slice([0..x.dims()[0], 0..1, top..top + 4, left..left + 4])
                    .flatten::<2>(1, 3)
                    .sum_dim(1)
            };
            Tensor::cat(vec![part(0, 0), part(0, 4), part(4, 0), part(4, 4)], 1)
        };
        let x = Tensor::<4>::ones([1, 1, 8, 8], &Device::flex());
        let list = Classes::List(vec![0, 1, 2, 3]);
        let all = compare_classes(&Gradient, &quadrants, x, &list, &Run::new()).unwrap();
        let matrix = correlations(&all.attribution.maps(Reduction::Max).unwrap()).unwrap();
        for (i, row) in matrix.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                // Disjoint indicators of 16 of 64 pixels correlate at -1/3.
                let want = if i == j { 1.0 } else { -1.0 / 3.0 };
                assert!((value - want).abs() < 1e-9, "{i} {j} {value}");
            }
        }
    }
}
