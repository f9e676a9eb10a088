use burn::{
    module::Module,
    nn::{
        Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
        pool::{MaxPool2d, MaxPool2dConfig},
    },
    tensor::{Device, Tensor, activation::relu},
};
use proptest::prelude::*;

use super::*;
use crate::{Graph, Model, near::Near, plan::kernel::Isa};

/// Convolutions, a pool, a residual from before and after a convolution, a sum, a
/// concatenation.
#[derive(Module, Debug)]
struct Net {
    first: Conv2d,
    pool: MaxPool2d,
    same: Conv2d,
    down: Conv2d,
    short: Conv2d,
    wide: Conv2d,
    head: Linear,
}

impl Net {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        // Negative values are pooled, so a border of zeros would show.
        let x = self.pool.forward(self.first.forward(x));
        let x = relu(self.same.forward(x.clone()) + x);
        let a = self.down.forward(x.clone());
        let b = relu(self.short.forward(x.clone()));
        let x = relu(a + b.clone()) + b;
        let x = Tensor::cat(
            vec![
                relu(self.same.forward(x.clone())),
                relu(self.wide.forward(x)),
            ],
            1,
        );
        self.head.forward(x.mean_dims(&[2, 3]).flatten::<2>(1, 3))
    }
}

#[derive(Clone, Debug)]
struct Sizes {
    inputs: usize,
    kernel: usize,
    stride: usize,
    pool: (usize, usize),
    second: (usize, usize),
    picture: (usize, usize),
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let all = (
        1usize..20,
        1usize..6,
        1usize..4,
        (1usize..4, 1usize..3),
        (1usize..3, 1usize..3),
        (12usize..28, 12usize..28),
    );
    all.prop_map(|(inputs, kernel, stride, pool, second, picture)| Sizes {
        inputs,
        kernel,
        stride,
        pool,
        second,
        picture,
    })
}

impl Sizes {
    fn graph(&self) -> Graph {
        let device = Device::flex();
        let pad = |p| PaddingConfig2d::Explicit(p, p, p, p);
        let conv = |from, to, kernel: usize, stride: usize| {
            Conv2dConfig::new([from, to], [kernel, kernel])
                .with_stride([stride, stride])
                .with_padding(pad(kernel / 2))
                .init(&device)
        };
        let (kernel, stride) = self.pool;
        let (second, down) = (2 * self.second.0 - 1, self.second.1);
        let net = Net {
            first: conv(self.inputs, 16, self.kernel, self.stride),
            pool: MaxPool2dConfig::new([kernel, kernel])
                .with_strides([stride, stride])
                .with_padding(pad(kernel / 2))
                .init(),
            same: conv(16, 16, 3, 1),
            down: conv(16, 16, second, down),
            short: conv(16, 16, 1, down),
            wide: conv(16, 5, second, 1),
            head: LinearConfig::new(21, 3).init(&device),
        };
        let x = Tensor::zeros([1, self.inputs, self.picture.0, self.picture.1], &device);
        Graph::trace(&net, |m, x: Tensor<4>| m.forward(x), &x).unwrap()
    }

    fn base(&self, seed: u64) -> Vec<f32> {
        let len = self.inputs * self.picture.0 * self.picture.1;
        crate::noise::standard_normal(seed, 0, len)
    }

    /// Rows with other values in a rectangle of some channels.
    fn rows(&self, base: &[f32], corners: &[[f64; 4]]) -> Vec<f32> {
        let (height, width) = self.picture;
        let at = |part: f64, size: usize| (part * size as f64) as usize;
        let mut rows = base.repeat(corners.len());
        for (row, [y, x, h, w]) in rows.chunks_mut(base.len()).zip(corners) {
            let (top, left) = (at(*y, height), at(*x, width));
            for (index, value) in row.iter_mut().enumerate().skip(base.len() / 2) {
                let (y, x) = (index / width % height, index % width);
                if (top..=top + at(*h, height)).contains(&y)
                    && (left..left + at(*w, width)).contains(&x)
                {
                    *value = 0.25;
                }
            }
        }
        rows
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// However many steps are done in rectangles, to the bit.
    #[test]
    fn rectangles_change_nothing(
        sizes in sizes(),
        corners in proptest::collection::vec(proptest::array::uniform4(0.0f64..1.0), 1..6),
        shrink in 0.1f64..1.0,
        seed in 0u64..1000,
    ) {
        let graph = sizes.graph();
        let corners: Vec<[f64; 4]> =
            corners.iter().map(|&[y, x, h, w]| [y, x, h * shrink, w * shrink]).collect();
        let planes = sizes.base(seed);
        let changed = sizes.rows(&planes, &corners);
        for isa in Isa::all() {
            let plan = Plan::with(&graph, isa).expect("a plan");
            let rows = corners.len();
            let want = plan.forward(&changed, rows);
            let base = Base::new(planes.clone());
            let changes: Vec<Rect> = changed
                .chunks(planes.len())
                .map(|row| plan.difference(&base, row))
                .collect();
            let mut buffers = plan.entered(&planes, 1);
            plan.pass_on(&mut buffers, 0, 1, Keep::Buffers, None);
            let (regions, gains) = plan.regions(&changes);
            for end in 0..=gains.len() {
                let schedule = Schedule { end, regions: regions.clone(), saved: 0.0 };
                let got = plan.forward_changed(&buffers, &changed, &schedule);
                prop_assert_eq!(bits(&got), bits(&want), "{:?} {}", isa, end);
            }
        }
    }

    /// Outputs that some change can reach are reached, by trying all.
    #[test]
    fn reached_outputs_are_those_of_the_definition(
        size in 1usize..12,
        kernel in 1usize..5,
        stride in 1usize..4,
        padding in 0usize..3,
        start in 0usize..12,
        len in 1usize..12,
    ) {
        let start = start % size;
        let end = (start + len).min(size);
        prop_assume!(size + 2 * padding >= kernel && padding < kernel);
        let grid = (size + 2 * padding - kernel) / stride + 1;
        let window = Strides { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [1, 1] };
        let touched: Vec<usize> = (0..grid)
            .filter(|y| {
                let from = (y * stride) as isize - padding as isize;
                from < end as isize && from + kernel as isize > start as isize
            })
            .collect();
        let [got, same] = reached(&[start..end, start..end], &window, [grid; 2]);
        prop_assert_eq!(&got, &same);
        prop_assert!(got.end <= grid && !got.is_empty());
        if let (Some(&first), Some(&last)) = (touched.first(), touched.last()) {
            prop_assert_eq!(got, first..last + 1);
        }
    }
}

fn example() -> Sizes {
    Sizes {
        inputs: 3,
        kernel: 3,
        stride: 1,
        pool: (3, 2),
        second: (2, 2),
        picture: (64, 64),
    }
}

/// Rows of a batch in any order, more than go through at once, some far from their base.
#[test]
fn a_batch_of_rows_near_others_has_the_same_outputs() {
    let sizes = example();
    let graph = sizes.graph();
    let device = Device::flex();
    let tensor = |values: Vec<f32>| {
        let rows = values.len() / sizes.base(0).len();
        let data = burn::tensor::TensorData::new(values, [rows, 3, 64, 64]);
        Tensor::<4>::from_data(data, &device)
    };
    let corners = [
        [0.0, 0.0, 0.1, 0.1],
        [0.5, 0.3, 0.1, 0.2],
        [0.9, 0.9, 0.1, 0.1],
        [0.0, 0.0, 1.0, 1.0],
        [0.4, 0.8, 0.0, 0.0],
        [0.7, 0.1, 0.05, 0.1],
    ];
    let bases = [sizes.base(1), sizes.base(2)];
    let rows: Vec<usize> = (0..24).map(|i| i / 2 % 2).collect();
    let changed: Vec<f32> = (rows.iter().enumerate())
        .flat_map(|(i, &row)| sizes.rows(&bases[row], &corners[i % 6..][..1]))
        .collect();
    let input = tensor(bases.concat());
    let changed = tensor(changed);
    let near = Near::new(&graph, &input);
    let run = crate::Run::new();
    let got = near.call(&run, changed.clone(), &rows).unwrap();
    let want = graph.forward(changed);
    let host = |tensor: Tensor<2>| tensor.try_into_vec_as::<f32>().unwrap();
    assert_eq!(bits(&host(got)), bits(&host(want)));
}

#[test]
fn only_small_changes_are_worth_it() {
    let sizes = example();
    let graph = sizes.graph();
    let plan = Plan::new(&graph).unwrap();
    assert!(plan.gains(&[10..14, 20..24]));
    assert!(plan.gains(&[0..0, 0..0]));
    assert!(!plan.gains(&[0..64, 0..64]));
    let base = Base::new(sizes.base(0));
    let mut row = sizes.base(0);
    assert_eq!(plan.difference(&base, &row), [0..0, 0..0]);
    row[64 * 64 + 64 * 7 + 5] += 1.0;
    row[64 * 9 + 8] += 1.0;
    assert_eq!(plan.difference(&base, &row), [7..10, 5..9]);
}
