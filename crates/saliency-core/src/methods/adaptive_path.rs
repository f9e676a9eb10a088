//! Integrals of the gradient along straight paths, with nodes where the gradient changes most.

use burn::tensor::Tensor;

use crate::{
    attribution::{Evidence, Outcome},
    baseline::Baseline,
    error::Error,
    host::widened,
    methods::gradient::score_and_gradient,
    model::Model,
    run::{Run, Stage, join},
    sampling::{Estimate, Moments, per_point, row_sums},
    target::{Goal, select_rows},
};

/// Nodes that a path starts with, both ends among them.
const FIRST: usize = 9;

/// Intervals of a path that are halved at a time: more would be chosen with less knowledge.
const HALVED: usize = 2;

/// How many nodes the paths get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nodes {
    pub least: usize,
    /// More, up to so many, while |delta| is larger than so much of |f(x) - f(b)|.
    pub refined: Option<(f64, usize)>,
}

impl Nodes {
    fn most(self) -> usize {
        self.refined.map_or(self.least, |(_, most)| most)
    }

    fn are_enough<const D: usize>(self, path: &Path<D>) -> bool {
        let delta = path.delta().abs();
        match self.refined {
            // What is not a number does not become one.
            Some((tolerance, _)) => !delta.is_finite() || delta <= tolerance * path.gap().abs(),
            None => true,
        }
    }
}

/// A place on a path.
#[derive(Clone, Debug)]
struct Node<const D: usize> {
    /// From 0, the baseline, to 1, the input.
    at: f64,
    score: f64,
    /// The score's derivative along the path.
    slope: f64,
    /// Of the score, `[1, ...]`.
    gradient: Tensor<D>,
    /// How wrong the interval to the next node may be.
    doubt: Option<f64>,
}

/// The nodes of one row, ascending.
#[derive(Clone, Debug, Default)]
struct Path<const D: usize>(Vec<Node<D>>);

impl<const D: usize> Path<D> {
    /// The trapezoid rule's.
    fn weights(&self) -> Vec<f64> {
        let at = |index: usize| self.0[index.min(self.0.len() - 1)].at;
        (0..self.0.len())
            .map(|index| 0.5 * (at(index + 1) - at(index.saturating_sub(1))))
            .collect()
    }

    /// f(x) - f(b).
    fn gap(&self) -> f64 {
        self.0[self.0.len() - 1].score - self.0[0].score
    }

    fn delta(&self) -> f64 {
        let slopes = self.0.iter().map(|node| node.slope);
        let sum: f64 = slopes.zip(self.weights()).map(|(s, w)| s * w).sum();
        sum - self.gap()
    }

    /// The middles of the `count` intervals with the most doubt, of equal ones the longest.
    fn middles(&self, count: usize) -> Vec<f64> {
        let length = |index: usize| self.0[index + 1].at - self.0[index].at;
        let key = |index: usize| (self.0[index].doubt.unwrap_or(0.0), length(index));
        let mut intervals: Vec<usize> = (0..self.0.len() - 1).collect();
        intervals.sort_by(|&a, &b| {
            let ((doubt, length), (other, shorter)) = (key(b), key(a));
            doubt.total_cmp(&other).then(length.total_cmp(&shorter))
        });
        intervals.truncate(count);
        let middle = |index: usize| 0.5 * (self.0[index].at + self.0[index + 1].at);
        intervals.into_iter().map(middle).collect()
    }

    fn insert(&mut self, node: Node<D>) {
        let place = self.0.partition_point(|other| other.at < node.at);
        if let Some(before) = place.checked_sub(1) {
            self.0[before].doubt = None;
        }
        self.0.insert(place, node);
    }

    /// Of the gradient.
    fn integral(&self) -> Tensor<D> {
        let terms = self.0.iter().zip(self.weights());
        let terms = terms.map(|(node, weight)| node.gradient.clone().mul_scalar(weight));
        terms.reduce(|a, b| a + b).expect("a path has two ends")
    }
}

/// The straight paths of a block of rows from one baseline.
struct Paths<'a, const D: usize> {
    model: &'a dyn Model<D>,
    goal: Goal,
    starts: Tensor<D>,
    gaps: Tensor<D>,
    paths: Vec<Path<D>>,
}

impl<const D: usize> Paths<'_, D> {
    /// Takes gradients at places of paths.
    fn visit(&mut self, places: &[(usize, f64)], run: &Run) -> Result<(), Error> {
        let mut found = Vec::new();
        let batch = run.rows(&self.starts);
        run.batches(Stage::Attributing, places.len(), batch, |range| {
            let (paths, at): (Vec<usize>, Vec<f64>) = places[range].iter().copied().unzip();
            let gaps = select_rows(self.gaps.clone(), &paths);
            let alpha = per_point(&at, 1, &gaps);
            let x = select_rows(self.starts.clone(), &paths) + gaps.clone() * alpha;
            let goal = self.goal.pick(&paths);
            let (scores, gradient) = score_and_gradient(self.model, x, &goal, run)?;
            let scores: Vec<f64> = scores.try_into_vec_as().map_err(Error::device)?;
            let gradients = widened(gradient);
            let slopes = row_sums(&(gradients.clone() * widened(gaps)))?;
            for (index, (&path, &at)) in paths.iter().zip(&at).enumerate() {
                let node = Node {
                    at,
                    score: scores[index],
                    slope: slopes[index],
                    gradient: gradients.clone().narrow(0, index, 1),
                    doubt: None,
                };
                found.push((path, node));
            }
            Ok(())
        })?;
        for (path, node) in found {
            self.paths[path].insert(node);
        }
        self.doubt()
    }

    /// Fills in the doubt of intervals that have none: the length times the norm of what the
    /// gradient times (x - b) changes by, or what the integral of the score's derivative lacks of
    /// the score's own change where that is more, as it is where all change lies inside.
    fn doubt(&mut self) -> Result<(), Error> {
        let (mut unknown, mut differences) = (Vec::new(), Vec::new());
        for (path, Path(nodes)) in self.paths.iter().enumerate() {
            for (index, ends) in nodes.windows(2).enumerate() {
                if ends[0].doubt.is_none() {
                    unknown.push((path, index));
                    differences.push(ends[1].gradient.clone() - ends[0].gradient.clone());
                }
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let paths: Vec<usize> = unknown.iter().map(|(path, _)| *path).collect();
        let gaps = widened(select_rows(self.gaps.clone(), &paths));
        let squares = row_sums(&(join(differences) * gaps).square())?;
        for ((path, index), square) in unknown.into_iter().zip(squares) {
            let nodes = &mut self.paths[path].0;
            let [a, b] = [&nodes[index], &nodes[index + 1]];
            let length = b.at - a.at;
            let missed = 0.5 * length * (a.slope + b.slope) - (b.score - a.score);
            nodes[index].doubt = Some((length * square.sqrt()).max(missed.abs()));
        }
        Ok(())
    }

    /// Adds nodes until all paths have enough; tells `report` how many there are.
    fn refine(
        &mut self,
        nodes: Nodes,
        run: &Run,
        report: impl Fn(usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let first = FIRST.min(nodes.least);
        let places = |path| (0..first).map(move |i| (path, i as f64 / (first - 1) as f64));
        let mut places: Vec<_> = (0..self.paths.len()).flat_map(places).collect();
        while !places.is_empty() {
            self.visit(&places, run)?;
            places.clear();
            report(self.paths.iter().map(|path| path.0.len()).sum())?;
            for (index, path) in self.paths.iter().enumerate() {
                let most = match nodes.are_enough(path) {
                    true => nodes.least,
                    false => nodes.most(),
                };
                let more = most.saturating_sub(path.0.len()).min(HALVED);
                places.extend(path.middles(more).into_iter().map(|at| (index, at)));
            }
        }
        Ok(())
    }
}

/// The integrals along the paths from the baselines to the input by the trapezoid rule, whose
/// intervals are halved where they are most in doubt. No gradient is thrown away. Rows are
/// averaged over the baselines. `times_gap`: multiplied with x - b.
pub(super) fn integrate<const D: usize>(
    model: &dyn Model<D>,
    (input, goal): (&Tensor<D>, &Goal),
    baselines: &[Baseline],
    (nodes, times_gap): (Nodes, bool),
    run: &Run,
) -> Result<Outcome<D>, Error> {
    let rows = input.dims()[0];
    let total = rows * baselines.len() * nodes.most();
    let (mut found, mut deltas, mut taken, mut met) = (Vec::new(), Vec::new(), 0, true);
    let quiet = run.without_progress();
    quiet.batches(
        Stage::Attributing,
        rows,
        (run.rows(input) / HALVED).max(1),
        |range| {
            let block = input.clone().narrow(0, range.start, range.len());
            let goal = goal.slice(range.start, range.end);
            let (mut integrals, mut sums) = (Vec::new(), vec![0.0; range.len()]);
            let (mut most, mut enough) = (0, true);
            for (index, baseline) in baselines.iter().enumerate() {
                let starts = baseline.of(&block)?;
                let mut paths = Paths {
                    model,
                    goal: goal.clone(),
                    gaps: block.clone() - starts.clone(),
                    starts,
                    paths: vec![Path::default(); range.len()],
                };
                let before = (range.start * baselines.len() + index * range.len()) * nodes.most();
                paths.refine(nodes, &quiet, |taken| {
                    run.report(Stage::Attributing, before + taken, total)
                })?;
                let integral = join(paths.paths.iter().map(Path::integral).collect());
                integrals.push(match times_gap {
                    true => integral * widened(paths.gaps.clone()),
                    false => integral,
                });
                for (sum, path) in sums.iter_mut().zip(&paths.paths) {
                    *sum += path.delta() / baselines.len() as f64;
                    most = most.max(path.0.len());
                    enough &= nodes.are_enough(path);
                }
            }
            found.push(Moments::of(
                join(integrals),
                baselines.len(),
                Estimate::Mean,
            ));
            deltas.extend(sums);
            (taken, met) = (taken.max(most), met && enough);
            Ok(())
        },
    )?;
    run.report(Stage::Attributing, total, total)?;
    let moments = Moments::of_blocks(found);
    Ok(Outcome {
        values: moments.mean(),
        evidence: Evidence {
            samples: Some(taken),
            standard_error: moments.standard_error(),
            converged: nodes.refined.map(|_| met),
            delta: times_gap.then_some(deltas),
        },
    })
}

#[cfg(test)]
mod tests {
    use crate::{
        Baseline, BatchSize, IntegratedGradients, Method, Model, Quadrature, Run, Target,
        host::relative_l2,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::{DType, Device, Tensor};

    fn adaptive(steps: usize) -> IntegratedGradients {
        IntegratedGradients::new()
            .rule(Quadrature::Adaptive)
            .steps(steps)
    }

    /// f = max(0, x - 0.7): from the kink on the gradient is 1, so IG is 0.3. Each halving of the
    /// interval with the kink halves the largest possible error, half of its length.
    #[test]
    fn steps_go_where_the_gradient_jumps() {
        let device = Device::flex();
        let x = Tensor::<2>::ones([1, 1], (&device, DType::F64));
        let hinge = |x: Tensor<2>| x.sub_scalar(0.7).clamp_min(0.0);
        let error = |method: IntegratedGradients| {
            let map = method.explain(&hinge, x.clone(), Target::Regression);
            let map = map.unwrap();
            let value = map.values.try_into_vec_as::<f64>().unwrap()[0];
            assert!((map.evidence.delta.unwrap()[0] - (value - 0.3)).abs() < 1e-12);
            (value - 0.3).abs()
        };
        // Eight intervals, then six rounds that halve the one with the kink.
        let length = 0.125 * 0.5f64.powi(6);
        assert!(error(adaptive(9 + 6 * 2)) <= 0.5 * length + 1e-12);
        let even = adaptive(9 + 6 * 2).rule(Quadrature::Trapezoid);
        assert!(error(even) > length);
    }

    /// All the change lies between two of the first nodes, which have gradient zero both: the score
    /// alone tells.
    #[test]
    fn what_lies_between_two_nodes_is_found() {
        let device = Device::flex();
        let x = Tensor::<2>::ones([1, 1], (&device, DType::F64));
        let ramp = |x: Tensor<2>| {
            let part = |at: f64| x.clone().sub_scalar(at).clamp_min(0.0);
            (part(0.80) - part(0.85)).mul_scalar(20.0)
        };
        let beside =
            |x: Tensor<2>| ramp(x.clone()) + x.sub_scalar(0.3).clamp_min(0.0).mul_scalar(0.3);
        let models: [(&dyn Model<2>, f64); 2] = [(&ramp, 1.0), (&beside, 1.21)];
        for (model, want) in models {
            let method = adaptive(9).tolerance(1e-2);
            let map = method
                .explain(model, x.clone(), Target::Regression)
                .unwrap();
            let value = map.values.try_into_vec_as::<f64>().unwrap()[0];
            assert!((value - want).abs() <= 1e-2 * want, "{value} {want}");
            assert!(map.evidence.samples.unwrap() < 150);
        }
    }

    #[test]
    fn progress_is_told_and_can_stop_it() {
        let net = Net::relu(&Device::flex());
        let seen = std::cell::RefCell::new(Vec::new());
        let progress = |p: crate::Progress| {
            seen.borrow_mut().push(p.done);
            match seen.borrow().len() > 4 {
                true => std::ops::ControlFlow::Break(()),
                false => std::ops::ControlFlow::Continue(()),
            }
        };
        let run = Run::new().progress(&progress);
        let method = adaptive(60);
        let found = method.explain_with(&net, image(1, 2), &Target::Class(1), &run);
        assert!(matches!(found, Err(crate::Error::Cancelled { .. })));
        assert!(seen.borrow().is_sorted_by(|a, b| a < b || *b <= 1));
    }

    /// Each step is one gradient, and none is thrown away.
    #[test]
    fn gradients_are_counted_and_all_are_used() {
        let net = Net::relu(&Device::flex());
        let run = Run::new().mode_check(crate::ModeCheck::Skip);
        for (method, most) in [(adaptive(30), 30), (adaptive(9).tolerance(1e-2), 1600)] {
            let map = method.explain_with(&net, image(1, 2), &Target::Class(1), &run);
            let map = map.unwrap();
            let taken = map.evidence.samples.unwrap();
            assert_eq!(map.evaluations.gradient, taken);
            assert!(taken <= most);
        }
        let map = adaptive(30).explain(&net, image(1, 2), 1).unwrap();
        assert_eq!(map.evidence.samples, Some(30));
        assert_eq!(map.evidence.converged, None);
    }

    /// The reference is the midpoint rule with 4000 steps, in f64.
    #[test]
    fn the_map_is_nearer_than_that_of_as_many_fixed_steps() {
        let net = Net::relu(&Device::flex()).cast_f64();
        let x = image(4, 3).cast(DType::F64);
        let map = |method: IntegratedGradients| {
            let map = method.explain(&net, x.clone(), vec![0, 1, 2, 3]);
            map.unwrap().values
        };
        let fixed = |rule, steps| map(IntegratedGradients::new().rule(rule).steps(steps));
        let reference = fixed(Quadrature::RiemannMiddle, 4000);
        let error = |values: Tensor<4>| relative_l2(&values, &reference).unwrap();
        let got = error(map(adaptive(50)));
        for rule in [Quadrature::GaussLegendre, Quadrature::Trapezoid] {
            let other = error(fixed(rule, 50));
            assert!(got < 0.8 * other, "{rule:?}: {got:.1e} {other:.1e}");
        }
    }

    #[test]
    fn the_tolerance_is_met_or_said_not_to_be() {
        let net = Net::relu(&Device::flex()).cast_f64();
        let x = image(3, 4).cast(DType::F64);
        let start = net.forward(x.zeros_like());
        let start = start.try_into_vec_as::<f64>().unwrap()[1];
        let explain = |method: IntegratedGradients| method.explain(&net, x.clone(), 1).unwrap();
        let map = explain(adaptive(9).tolerance(1e-3));
        assert_eq!(map.evidence.converged, Some(true));
        for (delta, score) in map.evidence.delta.unwrap().iter().zip(&map.scores) {
            assert!(delta.abs() <= 1e-3 * (score - start).abs());
        }
        let map = explain(adaptive(9).tolerance(1e-12).max_steps(40));
        let evidence = map.evidence;
        assert_eq!(
            (evidence.converged, evidence.samples),
            (Some(false), Some(40))
        );
    }

    #[test]
    fn does_not_depend_on_the_batch_split_or_the_neighbours() {
        for method in [adaptive(20), adaptive(9).tolerance(1e-2)] {
            assert_splits_agree(&method, 1e-6);
            let net = Net::relu(&Device::flex());
            let all = method.explain(&net, image(4, 2), vec![0, 1, 2, 3]).unwrap();
            let third = image(4, 2).narrow(0, 2, 1);
            let run = Run::new().batch_size(BatchSize::Rows(3));
            let alone = method.explain_with(&net, third, &Target::Class(2), &run);
            assert_close(all.values.narrow(0, 2, 1), alone.unwrap().values, 1e-6);
        }
    }

    #[test]
    fn baselines_are_averaged_and_the_difference_may_be_left_out() {
        let net = Net::smooth(&Device::flex());
        let all = [Baseline::Zero, Baseline::Mean];
        let of = |baselines: &[Baseline]| {
            let method = adaptive(24).baselines(baselines);
            method.explain(&net, image(2, 1), vec![1, 2]).unwrap()
        };
        let each = all.each_ref().map(|b| of(std::slice::from_ref(b)).values);
        let got = of(&all);
        let [a, b] = each;
        assert_close(
            got.values.clone(),
            (a.clone() + b.clone()).div_scalar(2.0),
            1e-6,
        );
        let error = got.evidence.standard_error.unwrap();
        assert_close(error, (a - b).abs().div_scalar(2.0), 1e-5);
        // From one baseline: times (x - b) it is the same.
        let plain = adaptive(24).multiply_by_inputs(false);
        let plain = plain.explain(&net, image(2, 1), vec![1, 2]).unwrap();
        assert!(plain.evidence.delta.is_none());
        let want = of(&all[..1]).values;
        assert_close(plain.values * image(2, 1), want, 1e-6);
    }

    #[test]
    fn other_methods_say_that_they_have_fixed_steps() {
        let graph = crate::methods::testing::net_graph();
        let method = crate::LayerIntegratedGradients::new().rule(Quadrature::Adaptive);
        let error = method.explain(&graph, image(1, 1), 0).unwrap_err();
        assert!(error.to_string().starts_with("rule = adaptive"), "{error}");
    }
}
