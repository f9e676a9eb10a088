//! Activations and norms found again: Burn records ELU, GroupNorm and others as the operations
//! it makes them of. As one node they have a name, and the rules of methods apply to the whole.

use super::{
    Graph, Node, NodeId,
    op::{Along, Binary, Compare, Op, Reduce, Size, Unary},
};

/// The node as what it ends, where it ends a known composition. The rest of the composition
/// stays until nothing uses it.
pub(super) fn recognise(graph: &mut Graph, mut node: Node) -> NodeId {
    let found = activation(graph, &node)
        .or_else(|| quiet_softmax(graph, &node))
        .or_else(|| standardised(graph, &node))
        .or_else(|| grouped(graph, &node))
        .or_else(|| scaled(graph, &node))
        .or_else(|| shifted(graph, &node));
    if let Some((op, mut inputs)) = found {
        // A reshape before it may have been merged into the one inside the composition.
        let shape = &node.shape;
        if let Op::GroupNorm { .. } = op
            && graph.node(inputs[0]).shape != *shape
        {
            let before = Node::new(Op::Reshape, vec![inputs[0]], shape.clone(), None);
            inputs[0] = graph.add(before);
        }
        node.op = op;
        node.inputs = inputs;
    }
    graph.add(node)
}

type Found = Option<(Op, Vec<NodeId>)>;

fn activation(graph: &Graph, node: &Node) -> Found {
    let (function, x) = match (&node.op, &node.inputs[..]) {
        (Op::MaskWhere, &[x, mask, value]) => {
            chosen(graph, x, mask, value).or_else(|| softplus(graph, x, mask, value))?
        }
        (Op::MaskFill(value), &[x, mask]) => filled(graph, x, mask, *value)?,
        (Op::Binary(Binary::Mul), &[a, b]) => gated(graph, a, b).or_else(|| gated(graph, b, a))?,
        (Op::Binary(Binary::Div), &[x, b]) => {
            let size = added(graph, b, 1.0)?;
            (unary(graph, size)? == (Unary::Abs, x)).then_some((Unary::Softsign, x))?
        }
        (Op::Binary(Binary::Sub), &[x, b]) => {
            (unary(graph, b)? == (Unary::Tanh, x)).then_some((Unary::Tanhshrink, x))?
        }
        (Op::Unary(Unary::Mul(half)), &[product]) if *half == 0.5 => gelu_tanh(graph, product)?,
        _ => return None,
    };
    (graph.node(x).shape == node.shape).then(|| (Op::Unary(function), vec![x]))
}

/// ELU, CELU, SELU: one of x and an exponential.
fn chosen(graph: &Graph, x: NodeId, mask: NodeId, value: NodeId) -> Option<(Unary, NodeId)> {
    let (how, number, of) = compared(graph, mask)?;
    if number != 0.0 {
        return None;
    }
    match how {
        Compare::LowerEqual | Compare::Lower if of == x => {
            let (alpha, slope) = exponential(graph, value, x)?;
            let function = match slope {
                1.0 => Unary::Elu { alpha },
                slope if near(slope * alpha, 1.0) => Unary::Celu { alpha },
                _ => return None,
            };
            Some((function, x))
        }
        Compare::GreaterEqual | Compare::Greater => {
            let (alpha, slope) = exponential(graph, x, of)?;
            let (scale, from) = factor(graph, value);
            let selu = from == of
                && slope == 1.0
                && near(scale, 1.050_700_987_355_480_5)
                && near(alpha, 1.673_263_242_354_377_2 * scale);
            selu.then_some((Unary::Selu, of))
        }
        _ => None,
    }
}

/// The factors a and b of a (exp(b x) - 1).
fn exponential(graph: &Graph, id: NodeId, x: NodeId) -> Option<(f64, f64)> {
    let (alpha, inner) = factor(graph, id);
    let (Unary::Exp, inner) = unary(graph, added(graph, inner, -1.0)?)? else {
        return None;
    };
    let (slope, from) = factor(graph, inner);
    if inner == x {
        return Some((alpha, 1.0));
    }
    (from == x).then_some((alpha, slope))
}

fn softplus(graph: &Graph, smooth: NodeId, mask: NodeId, x: NodeId) -> Option<(Unary, NodeId)> {
    let (Compare::Greater, threshold, scaled) = compared(graph, mask)? else {
        return None;
    };
    let (inverse, inner) = factor(graph, smooth);
    let (Unary::Log1p, inner) = unary(graph, inner)? else {
        return None;
    };
    let (Unary::Exp, capped) = unary(graph, inner)? else {
        return None;
    };
    let capped = graph.node(capped);
    let caps =
        matches!(capped.op, Op::MaskFill(at) if at == threshold) && capped.inputs == [scaled, mask];
    let beta = match scaled == x {
        true => 1.0,
        false => factor(graph, scaled).0,
    };
    let fits = caps && (scaled == x || factor(graph, scaled).1 == x) && near(inverse * beta, 1.0);
    fits.then_some((Unary::Softplus { beta, threshold }, x))
}

/// Thresholds and shrinking.
fn filled(graph: &Graph, x: NodeId, mask: NodeId, value: f64) -> Option<(Unary, NodeId)> {
    let (Compare::LowerEqual, number, of) = compared(graph, mask)? else {
        return None;
    };
    if of == x {
        let function = match (number, value) {
            (0.0, 0.0) => Unary::Relu,
            (above, value) => Unary::Threshold { above, value },
        };
        return Some((function, x));
    }
    let (Unary::Abs, of) = unary(graph, of)? else {
        return None;
    };
    let lambda = number;
    if value != 0.0 {
        return None;
    }
    if of == x {
        return Some((Unary::Shrink { lambda, bias: 0.0 }, x));
    }
    let (Op::Binary(Binary::Sub), &[from, moved]) = parts(graph, x) else {
        return None;
    };
    let (bias, sign) = factor(graph, moved);
    let fits = from == of && unary(graph, sign)? == (Unary::Sign, of);
    fits.then_some((Unary::Shrink { lambda, bias }, of))
}

/// x times a gate made of x.
fn gated(graph: &Graph, x: NodeId, gate: NodeId) -> Option<(Unary, NodeId)> {
    let function = match unary(graph, gate)? {
        (Unary::Sigmoid, of) if of == x => Unary::Silu,
        (Unary::HardSigmoid { alpha, beta }, of)
            if of == x && near(alpha, 1.0 / 6.0) && near(beta, 0.5) =>
        {
            Unary::HardSwish
        }
        (Unary::Tanh, inner) => match unary(graph, inner)? {
            (Unary::Softplus { beta, .. }, of) if of == x && beta == 1.0 => Unary::Mish,
            _ => return None,
        },
        _ => return None,
    };
    Some((function, x))
}

/// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) of half of it.
fn gelu_tanh(graph: &Graph, product: NodeId) -> Option<(Unary, NodeId)> {
    let (Op::Binary(Binary::Mul), &[x, gate]) = parts(graph, product) else {
        return None;
    };
    let (Unary::Tanh, inner) = unary(graph, added(graph, gate, 1.0)?)? else {
        return None;
    };
    let (scale, sum) = factor(graph, inner);
    let (Op::Binary(Binary::Add), &[from, cubed]) = parts(graph, sum) else {
        return None;
    };
    let (weight, cube) = factor(graph, cubed);
    let fits = from == x
        && near(scale, (2.0 / std::f64::consts::PI).sqrt())
        && near(weight, 0.044715)
        && unary(graph, cube)? == (Unary::Power(3.0), x);
    fits.then_some((Unary::GeluTanh, x))
}

/// exp(x - m) / (sum exp(x - m) + exp(-m)), m the maximum.
fn quiet_softmax(graph: &Graph, node: &Node) -> Found {
    let (Op::Binary(Binary::Div), &[e, whole]) = (&node.op, &node.inputs[..]) else {
        return None;
    };
    let (Unary::Exp, shifted) = unary(graph, e)? else {
        return None;
    };
    let (Op::Binary(Binary::Sub), &[x, top]) = parts(graph, shifted) else {
        return None;
    };
    let (Op::Binary(Binary::Add), &[sum, rest]) = parts(graph, whole) else {
        return None;
    };
    let (Op::Reduce(Reduce::Sum, axes), &[of]) = parts(graph, sum) else {
        return None;
    };
    let &[axis] = &axes[..] else { return None };
    let (Unary::Exp, negative) = unary(graph, rest)? else {
        return None;
    };
    let maximum = match parts(graph, top) {
        (Op::MaskFill(number), &[maximum, _]) if *number == 0.0 => maximum,
        _ => top,
    };
    let fits = of == e
        && unary(graph, negative)? == (Unary::Neg, top)
        && parts(graph, maximum) == (&Op::Reduce(Reduce::Max, vec![axis]), &[x][..]);
    fits.then(|| (Op::Along(Along::QuietSoftmax, axis), vec![x]))
}

/// c / sqrt(mean c^2 + epsilon).
fn standardised(graph: &Graph, node: &Node) -> Found {
    let (Op::Binary(Binary::Div), &[c, root]) = (&node.op, &node.inputs[..]) else {
        return None;
    };
    let (Unary::Sqrt, sum) = unary(graph, uncast(graph, root))? else {
        return None;
    };
    let (epsilon, mean) = match unary(graph, sum) {
        Some((Unary::Add(epsilon), mean)) => (epsilon, mean),
        _ => (0.0, sum),
    };
    let (Op::Reduce(Reduce::Mean, axes), &[square]) = parts(graph, mean) else {
        return None;
    };
    let squared = match parts(graph, square) {
        (Op::Binary(Binary::Mul), &[a, b]) if a == b => a,
        (Op::Unary(Unary::Power(power)), &[a]) if *power == 2.0 => a,
        _ => return None,
    };
    if uncast(graph, squared) != c || graph.node(c).shape != node.shape {
        return None;
    }
    let centre = match parts(graph, c) {
        (Op::Binary(Binary::Sub), &[x, mean])
            if parts(graph, mean) == (&Op::Reduce(Reduce::Mean, axes.clone()), &[x][..]) =>
        {
            Some(x)
        }
        _ => None,
    };
    let op = Op::Standardise {
        axes: axes.clone(),
        epsilon,
        centred: centre.is_some(),
    };
    Some((op, vec![centre.unwrap_or(c)]))
}

/// Standardised in groups of channels, and brought back to its shape.
fn grouped(graph: &Graph, node: &Node) -> Found {
    let (Op::Reshape, &[normal]) = (&node.op, &node.inputs[..]) else {
        return None;
    };
    let (epsilon, inside) = centred(graph, normal, &[2])?;
    let (Op::Reshape, &[x]) = parts(graph, inside) else {
        return None;
    };
    let [Size::Rows(1), Size::Fixed(groups), Size::Fixed(_)] = graph.node(inside).shape[..] else {
        return None;
    };
    let [Size::Rows(1), Size::Fixed(channels), _, ..] = node.shape[..] else {
        return None;
    };
    let fits = channels.is_multiple_of(groups);
    fits.then(|| (Op::GroupNorm { groups, epsilon }, vec![x]))
}

/// A norm times its weights.
fn scaled(graph: &Graph, node: &Node) -> Found {
    let (Op::Binary(Binary::Mul), &[a, b]) = (&node.op, &node.inputs[..]) else {
        return None;
    };
    let with = |normal: NodeId, gamma: NodeId| -> Found {
        let last = node.shape.len() - 1;
        let inside = graph.node(normal);
        if inside.shape != node.shape {
            return None;
        }
        match &inside.op {
            Op::GroupNorm { .. } if inside.inputs.len() == 1 => {
                per_channel(graph, gamma, node, 1)?;
                Some((inside.op.clone(), vec![inside.inputs[0], gamma]))
            }
            // An instance norm of one position axis needs no other shape.
            Op::Standardise {
                axes,
                epsilon,
                centred: true,
            } if last >= 2 && axes[..] == *(2..=last).collect::<Vec<_>>() => {
                let groups = per_channel(graph, gamma, node, 1)?;
                let epsilon = *epsilon;
                let op = Op::GroupNorm { groups, epsilon };
                Some((op, vec![inside.inputs[0], gamma]))
            }
            Op::Standardise {
                axes,
                epsilon,
                centred: false,
            } if axes[..] == [last] => {
                per_channel(graph, gamma, node, last)?;
                let op = Op::RmsNorm { epsilon: *epsilon };
                Some((op, vec![inside.inputs[0], gamma]))
            }
            _ => None,
        }
    };
    with(a, b).or_else(|| with(b, a))
}

/// A norm plus its biases.
fn shifted(graph: &Graph, node: &Node) -> Found {
    let (Op::Binary(Binary::Add), &[a, b]) = (&node.op, &node.inputs[..]) else {
        return None;
    };
    let with = |normal: NodeId, beta: NodeId| -> Found {
        let inside = graph.node(normal);
        let fits = matches!(inside.op, Op::GroupNorm { .. })
            && inside.inputs.len() == 2
            && inside.shape == node.shape;
        per_channel(graph, beta, node, 1).filter(|_| fits)?;
        let inputs = vec![inside.inputs[0], inside.inputs[1], beta];
        Some((inside.op.clone(), inputs))
    };
    with(a, b).or_else(|| with(b, a))
}

/// How many channels there are, where a constant has one number for each.
fn per_channel(graph: &Graph, id: NodeId, node: &Node, axis: usize) -> Option<usize> {
    let shape = graph.constant(id)?.shape();
    let Size::Fixed(channels) = node.shape[axis] else {
        return None;
    };
    // The shape as it broadcasts to the node's.
    let mut full = vec![1; node.shape.len().checked_sub(shape.len())?];
    full.extend(&shape);
    let fits = full
        .iter()
        .enumerate()
        .all(|(d, &size)| size == if d == axis { channels } else { 1 });
    fits.then_some(channels)
}

/// The epsilon and the input of a centred norm over these axes.
fn centred(graph: &Graph, id: NodeId, over: &[usize]) -> Option<(f64, NodeId)> {
    match parts(graph, id) {
        (
            Op::Standardise {
                axes,
                epsilon,
                centred: true,
            },
            &[x],
        ) if axes == over => Some((*epsilon, x)),
        _ => None,
    }
}

fn parts(graph: &Graph, id: NodeId) -> (&Op, &[NodeId]) {
    let node = graph.node(id);
    (&node.op, &node.inputs)
}

fn unary(graph: &Graph, id: NodeId) -> Option<(Unary, NodeId)> {
    match parts(graph, id) {
        (Op::Unary(function), &[x]) => Some((*function, x)),
        _ => None,
    }
}

/// x of x + number.
fn added(graph: &Graph, id: NodeId, number: f64) -> Option<NodeId> {
    match unary(graph, id)? {
        (Unary::Add(by), x) if by == number => Some(x),
        _ => None,
    }
}

/// a and x of a x: a is 1 where nothing is multiplied.
fn factor(graph: &Graph, id: NodeId) -> (f64, NodeId) {
    match unary(graph, id) {
        Some((Unary::Mul(by), x)) => (by, x),
        Some((Unary::Div(by), x)) => (1.0 / by, x),
        _ => (1.0, id),
    }
}

fn compared(graph: &Graph, mask: NodeId) -> Option<(Compare, f64, NodeId)> {
    match parts(graph, mask) {
        (Op::CompareTo(how, number), &[x]) => Some((*how, *number, x)),
        _ => None,
    }
}

fn uncast(graph: &Graph, id: NodeId) -> NodeId {
    match parts(graph, id) {
        (Op::Cast(dtype), &[x]) if dtype.is_float() => uncast(graph, x),
        _ => id,
    }
}

/// Equal, as far as a number in f32 can be.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs()
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{Module, Param},
        nn::{
            GroupNorm, GroupNormConfig, InstanceNormConfig, Linear, LinearConfig, RmsNormConfig,
            SwiGluConfig,
        },
        tensor::{DType, Device, Tensor, activation},
    };

    use super::*;
    use crate::{
        Gradient, Lrp, LrpRule, Method, Model,
        methods::testing::{assert_close, image, seeded},
    };

    fn names(graph: &Graph) -> Vec<String> {
        let layers = graph.layers().into_iter();
        layers.map(|layer| layer.op).collect()
    }

    /// Outputs and gradients of the graph beside those of the module itself.
    fn check<const D: usize, M: Module>(
        module: &M,
        forward: impl Fn(&M, Tensor<D>) -> Tensor<2>,
        x: Tensor<D>,
    ) -> Graph {
        let graph = Graph::trace(module, &forward, &x).unwrap();
        let own = |x: Tensor<D>| forward(module, x);
        assert_close(graph.forward(x.clone()), own(x.clone()), 1e-6);
        for output in [0, 3] {
            let got = Gradient.explain(&graph, x.clone(), output).unwrap().values;
            let want = Gradient.explain(&own, x.clone(), output).unwrap().values;
            assert_close(got, want, 1e-5);
        }
        graph
    }

    fn table() -> Tensor<2> {
        image(4, 3)
            .flatten::<2>(1, 3)
            .narrow(1, 0, 6)
            .mul_scalar(2.0)
    }

    fn linear() -> Linear {
        let device = Device::flex();
        let mut linear = LinearConfig::new(6, 6).init(&device);
        linear.weight = seeded([6, 6], 1, 0.7, &device);
        linear.bias = Some(seeded([6], 2, 0.5, &device));
        linear
    }

    #[test]
    fn activations_are_one_node_each() {
        type Function = fn(Tensor<2>) -> Tensor<2>;
        let functions: [(&str, Function); 22] = [
            ("elu", |x| activation::elu(x, 1.0)),
            ("elu", |x| activation::elu(x, 0.7)),
            ("celu", |x| activation::celu(x, 1.3)),
            ("selu", activation::selu),
            ("softplus", |x| activation::softplus(x, 1.0)),
            ("softplus", |x| activation::softplus(x, 1.7)),
            ("softplus", |x| {
                activation::softplus_with_threshold(x, 2.0, 1.5)
            }),
            ("mish", activation::mish),
            ("softsign", activation::softsign),
            ("silu", activation::silu),
            ("hard_swish", activation::hard_swish),
            ("gelu_tanh", activation::gelu_approximate),
            ("tanhshrink", activation::tanhshrink),
            ("threshold", |x| activation::threshold(x, 0.3, -0.5)),
            ("threshold", |x| activation::thresholded_relu(x, 0.4)),
            ("relu", |x| activation::thresholded_relu(x, 0.0)),
            ("shrink", |x| activation::hard_shrink(x, 0.5)),
            ("shrink", |x| activation::soft_shrink(x, 0.4)),
            ("shrink", |x| activation::shrink(x, 0.5, 0.2)),
            ("shrink", |x| activation::shrink(x, 0.5, 1.0)),
            ("clamp", activation::relu6),
            ("quiet_softmax", |x| activation::quiet_softmax(x, 1)),
        ];
        for (name, function) in functions {
            let forward = |m: &Linear, x: Tensor<2>| m.forward(function(m.forward(x)));
            let graph = check(&linear(), forward, table());
            assert_eq!(names(&graph), ["linear", name, "linear"]);
        }
    }

    /// What is no such activation stays as it is.
    #[test]
    fn other_compositions_stay() {
        let almost = |m: &Linear, x: Tensor<2>| {
            let x = m.forward(x);
            let mask = x.clone().lower_equal_elem(0.5);
            x.clone().mask_where(mask, x.exp().sub_scalar(1.0))
        };
        let graph = check(&linear(), almost, table());
        assert!(names(&graph).contains(&"mask_where".into()));
        let other = |m: &Linear, x: Tensor<2>| {
            let x = m.forward(x);
            let y = m.forward(x.clone());
            x.mul(activation::sigmoid(y))
        };
        let graph = check(&linear(), other, table());
        assert!(names(&graph).contains(&"sigmoid".into()));
    }

    #[test]
    fn gated_units_keep_their_gates() {
        let device = Device::flex();
        let unit = SwiGluConfig::new(6, 6).init(&device);
        let graph = check(&unit, |m, x| m.forward(x), table());
        assert_eq!(names(&graph), ["linear", "silu", "linear", "mul"]);
        let glu = |m: &Linear, x: Tensor<2>| {
            let x = m.forward(x);
            activation::glu(Tensor::cat(vec![x.clone(), x.tanh()], 1), 1)
        };
        let graph = check(&linear(), glu, table());
        assert!(names(&graph).contains(&"sigmoid".into()));
    }

    fn affine(mut norm: GroupNorm) -> GroupNorm {
        let device = Device::flex();
        let channels = norm.num_channels;
        norm.gamma = Some(seeded([channels], 4, 1.0, &device));
        norm.beta = Some(seeded([channels], 5, 1.0, &device));
        norm
    }

    /// Six channels, from the positions of the picture.
    fn channels(x: Tensor<4>) -> Tensor<4> {
        Tensor::cat(vec![x.clone(), x.tanh()], 1)
    }

    #[test]
    fn group_norms_are_one_node_each() {
        let device = Device::flex();
        let x = image(3, 5);
        let config = GroupNormConfig::new(3, 6).with_epsilon(1e-3);
        let norm = affine(config.init(&device));
        let graph = check(
            &norm,
            |m, x| m.forward(channels(x)).flatten(1, 3),
            x.clone(),
        );
        assert!(
            graph
                .layers()
                .iter()
                .any(|l| l.op == "group_norm" && l.parameters == 12)
        );
        assert_eq!(names(&graph).len(), 4);

        // Its parameters are the module's, as they are.
        let (_, gamma) = graph
            .parameters()
            .find(|(path, _)| *path == "gamma")
            .unwrap();
        let vector: Tensor<1> = norm.gamma.as_ref().map(Param::val).unwrap().mul_scalar(2.0);
        assert_eq!(gamma.shape().iter().product::<usize>(), 6);
        let twice = [("gamma".to_owned(), vector.into())].into_iter().collect();
        let twice = graph.with_parameters(&twice).unwrap();
        let mut double = norm.clone();
        double.gamma = double.gamma.map(|gamma| gamma.map(|t| t.mul_scalar(2.0)));
        let want = double.forward(channels(x.clone())).flatten::<2>(1, 3);
        assert_close(twice.forward(x.clone()), want, 1e-6);

        let plain = config.with_affine(false).init(&device);
        let graph = check(
            &plain,
            |m, x| m.forward(channels(x)).tanh().flatten(1, 3),
            x.clone(),
        );
        assert!(names(&graph).contains(&"group_norm".into()));
        // Its last reshape is merged with the one after it.
        let graph = check(&plain, |m, x| m.forward(channels(x)).flatten(1, 3), x);
        assert!(names(&graph).contains(&"standardise".into()));
    }

    #[test]
    fn instance_norms_are_group_norms() {
        let device = Device::flex();
        let mut norm = InstanceNormConfig::new(6).init(&device);
        norm.gamma = Some(seeded([6], 4, 1.0, &device));
        norm.beta = Some(seeded([6], 5, 1.0, &device));
        let x = image(3, 5);
        let graph = check(
            &norm,
            |m, x| m.forward(channels(x)).flatten(1, 3),
            x.clone(),
        );
        assert!(names(&graph).contains(&"group_norm".into()));
        // Of series, nothing is reshaped.
        let series = x.flatten::<3>(2, 3);
        let twice = |x: Tensor<3>| Tensor::cat(vec![x.clone(), x.tanh()], 1);
        let graph = check(&norm, |m, x| m.forward(twice(x)).flatten(1, 2), series);
        assert!(names(&graph).contains(&"group_norm".into()));
        // The norm of a picture that was flat before.
        let shaped = |x: Tensor<2>| x.reshape([-1, 6, 9, 4]);
        let flat = image(3, 5).flatten::<2>(1, 3);
        let graph = check(&norm, |m, x| m.forward(shaped(x)).flatten(1, 3), flat);
        assert!(names(&graph).contains(&"group_norm".into()));
    }

    #[test]
    fn root_mean_square_norms_are_one_node_each() {
        let device = Device::flex();
        let mut norm = RmsNormConfig::new(8).init(&device);
        norm.gamma = seeded([8], 4, 1.0, &device);
        let graph = check(&norm, |m, x| m.forward(x).flatten(1, 3), image(3, 5));
        assert_eq!(names(&graph), ["rms_norm", "reshape"]);
        assert_eq!(graph.layers()[0].parameters, 8);
    }

    /// A layer norm over the channels of pictures, as ConvNeXt writes it.
    #[test]
    fn norms_by_hand_are_standardised() {
        let by_hand = |_: &Linear, x: Tensor<4>| {
            let c = x.clone().sub(x.mean_dim(1));
            let variance = c.clone().powi_scalar(2).mean_dim(1);
            c.div((variance + 1e-5).sqrt()).flatten::<2>(1, 3)
        };
        let graph = check(&linear(), by_hand, image(2, 7));
        assert_eq!(names(&graph), ["standardise", "reshape"]);
    }

    /// LRP passes an activation unchanged: with W and V around it, R = x * (W (R_h / z)), with
    /// R_h = h V_c, whatever the activation is made of.
    #[test]
    fn relevance_passes_activations_and_norms() {
        type Function = fn(Tensor<2>) -> Tensor<2>;
        let functions: [Function; 5] = [
            |x| activation::elu(x, 1.0),
            activation::selu,
            |x| activation::softplus(x, 1.0),
            activation::mish,
            activation::softsign,
        ];
        let mut net = linear();
        net.bias = None;
        for function in functions {
            let forward = |m: &Linear, x: Tensor<2>| m.forward(function(m.forward(x)));
            let x = table();
            let graph = Graph::trace(&net, forward, &x).unwrap().cast(DType::F64);
            let x = x.cast(DType::F64);
            let lrp = Lrp::of(LrpRule::Epsilon(0.0)).stabiliser(0.0);
            let got = lrp.explain(&graph, x.clone(), 2).unwrap();
            let w = net.weight.val().cast(DType::F64);
            let z = x.clone().matmul(w.clone());
            let column = w.clone().narrow(1, 2, 1).transpose();
            let relevance = function(z.clone()) * column;
            let want = x * (relevance / z).matmul(w.transpose());
            assert_close(got.values, want, 1e-9);
        }
    }

    #[test]
    fn relevance_passes_group_norms() {
        let device = Device::flex();
        let norm = affine(GroupNormConfig::new(2, 6).init(&device));
        let x = channels(image(2, 5));
        let graph = Graph::trace(&norm, |m, x: Tensor<4>| m.forward(x).flatten(1, 3), &x).unwrap();
        let map = Lrp::epsilon_plus().explain(&graph, x.clone(), 17).unwrap();
        // All of it stays at its place.
        let outputs = norm.forward(x).flatten::<2>(1, 3);
        let mut want = Tensor::zeros_like(&outputs);
        want = want.slice_assign([0..2, 17..18], outputs.narrow(1, 17, 1));
        assert_close(map.values.flatten::<2>(1, 3), want, 1e-6);
    }
}
