use std::f32::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// A point, x to the right and y down.
pub(super) type Point = [f32; 2];

/// Closed polygons; a point is inside where an odd number of them holds it.
pub(super) type Outline = Vec<Vec<Point>>;

/// What the object of a scene is: the demo model's classes, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A filled circle.
    Disc,
    /// A square.
    Square,
    /// An equilateral triangle.
    Triangle,
    /// A five-pointed star.
    Star,
    /// A ring.
    Ring,
    /// A plus sign.
    Cross,
    /// A heart.
    Heart,
    /// A crescent moon.
    Crescent,
    /// An arrow.
    Arrow,
    /// An hourglass: two triangles, tip to tip.
    Hourglass,
    /// A lightning bolt.
    Bolt,
    /// A drop.
    Drop,
}

impl Shape {
    /// All classes, in the order of the demo model's outputs.
    pub const ALL: [Shape; 12] = [
        Shape::Disc,
        Shape::Square,
        Shape::Triangle,
        Shape::Star,
        Shape::Ring,
        Shape::Cross,
        Shape::Heart,
        Shape::Crescent,
        Shape::Arrow,
        Shape::Hourglass,
        Shape::Bolt,
        Shape::Drop,
    ];

    /// The class's name.
    ///
    /// ```
    /// assert_eq!(saliency_models::scenes::Shape::Heart.name(), "heart");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Shape::Disc => "disc",
            Shape::Square => "square",
            Shape::Triangle => "triangle",
            Shape::Star => "star",
            Shape::Ring => "ring",
            Shape::Cross => "cross",
            Shape::Heart => "heart",
            Shape::Crescent => "crescent",
            Shape::Arrow => "arrow",
            Shape::Hourglass => "hourglass",
            Shape::Bolt => "bolt",
            Shape::Drop => "drop",
        }
    }

    /// The class's number, its column in the demo model's output.
    pub fn class(self) -> usize {
        self as usize
    }

    /// The outline at unit radius around the origin.
    pub(super) fn outline(self) -> Outline {
        match self {
            Shape::Disc => vec![circle(0.85)],
            Shape::Square => vec![regular(4, 1.0, 0.125)],
            Shape::Triangle => vec![regular(3, 1.05, 0.0)],
            Shape::Star => vec![
                (0..10)
                    .map(|i| polar(if i % 2 == 0 { 1.1 } else { 0.45 }, i as f32 / 10.0))
                    .collect(),
            ],
            Shape::Ring => vec![circle(0.95), circle(0.55)],
            Shape::Cross => vec![mirror_four(&[[0.28, 1.0], [0.28, 0.28], [1.0, 0.28]])],
            Shape::Heart => vec![curve(48, |t| {
                let x = 16.0 * t.sin().powi(3);
                let y = 13.0 * t.cos()
                    - 5.0 * (2.0 * t).cos()
                    - 2.0 * (3.0 * t).cos()
                    - (4.0 * t).cos();
                [x / 16.5, -(y + 2.5) / 16.5]
            })],
            Shape::Crescent => vec![crescent()],
            Shape::Arrow => vec![vec![
                [1.1, 0.0],
                [0.3, 0.75],
                [0.3, 0.26],
                [-1.0, 0.26],
                [-1.0, -0.26],
                [0.3, -0.26],
                [0.3, -0.75],
            ]],
            Shape::Hourglass => vec![vec![
                [-0.8, -1.0],
                [0.8, -1.0],
                [0.1, 0.0],
                [0.8, 1.0],
                [-0.8, 1.0],
                [-0.1, 0.0],
            ]],
            Shape::Bolt => vec![vec![
                [0.25, -1.15],
                [-0.65, 0.2],
                [-0.08, 0.2],
                [-0.3, 1.15],
                [0.65, -0.28],
                [0.08, -0.28],
            ]],
            Shape::Drop => vec![curve(40, |t| {
                [0.72 * t.sin() * (t / 2.0).sin().powf(1.2), -t.cos()]
            })],
        }
    }
}

/// A long thin rectangle.
pub(super) fn bar(half_length: f32, half_width: f32) -> Outline {
    let (l, w) = (half_length, half_width);
    vec![vec![[-l, -w], [l, -w], [l, w], [-l, w]]]
}

/// A straight stroke.
pub(super) fn segment(from: Point, to: Point, half_width: f32) -> Outline {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let length = dx.hypot(dy);
    let middle = [(from[0] + to[0]) / 2.0, (from[1] + to[1]) / 2.0];
    place(&bar(length / 2.0, half_width), middle, 1.0, dy.atan2(dx))
}

/// An irregular quadrilateral of unit radius.
pub(super) fn shard(rng: &mut ChaCha8Rng) -> Outline {
    let corner = |i: usize, rng: &mut ChaCha8Rng| {
        let turn = (i as f32 + rng.random_range(-0.3..0.3)) / 4.0;
        polar(rng.random_range(0.5..1.0), turn)
    };
    vec![(0..4).map(|i| corner(i, rng)).collect()]
}

/// The outline turned by `angle` (radians), scaled and moved.
pub(super) fn place(outline: &Outline, at: Point, scale: f32, angle: f32) -> Outline {
    let (sin, cos) = angle.sin_cos();
    let turn = |[x, y]: Point| {
        [
            at[0] + scale * (x * cos - y * sin),
            at[1] + scale * (x * sin + y * cos),
        ]
    };
    outline
        .iter()
        .map(|polygon| polygon.iter().copied().map(turn).collect())
        .collect()
}

fn polar(radius: f32, turn: f32) -> Point {
    let (sin, cos) = (turn * TAU).sin_cos();
    [radius * sin, -radius * cos]
}

fn regular(corners: usize, radius: f32, turn: f32) -> Vec<Point> {
    (0..corners)
        .map(|i| polar(radius, turn + i as f32 / corners as f32))
        .collect()
}

fn circle(radius: f32) -> Vec<Point> {
    regular(48, radius, 0.0)
}

fn curve(points: usize, at: impl Fn(f32) -> Point) -> Vec<Point> {
    (0..points)
        .map(|i| at(i as f32 / points as f32 * TAU))
        .collect()
}

/// The path given for one quadrant, continued by rotation through all four.
fn mirror_four(path: &[Point]) -> Vec<Point> {
    let turned = |quarter: usize| {
        path.iter().map(move |&[x, y]| match quarter {
            0 => [x, -y],
            1 => [y, x],
            2 => [-x, y],
            _ => [-y, -x],
        })
    };
    (0..4).flat_map(turned).collect()
}

/// The unit disc less a disc of radius 0.85 centred 0.55 to the right.
fn crescent() -> Vec<Point> {
    let (gap, inner) = (0.55f32, 0.85f32);
    let x = (1.0 - inner * inner + gap * gap) / (2.0 * gap);
    let outer_angle = x.acos();
    let inner_angle = ((x - gap) / inner).acos();
    let arc = |n: usize, from: f32, to: f32| {
        (0..n).map(move |i| from + (to - from) * i as f32 / n as f32)
    };
    let outside = arc(32, outer_angle, TAU - outer_angle).map(|a| [a.cos(), a.sin()]);
    let inside =
        arc(24, TAU - inner_angle, inner_angle).map(|a| [gap + inner * a.cos(), inner * a.sin()]);
    outside.chain(inside).map(|[x, y]| [x + 0.2, y]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shoelace formula.
    fn area(polygon: &[Point]) -> f32 {
        let next = polygon.iter().cycle().skip(1);
        let twice: f32 = polygon
            .iter()
            .zip(next)
            .map(|(a, b)| a[0] * b[1] - a[1] * b[0])
            .sum();
        twice.abs() / 2.0
    }

    #[test]
    fn areas_are_those_of_the_figures() {
        let of = |shape: Shape| shape.outline().iter().map(|p| area(p)).collect::<Vec<_>>();
        assert!((of(Shape::Square)[0] - 2.0).abs() < 1e-5);
        // 4 * 0.56 * 0.72 arms + 0.56^2 middle
        assert!((of(Shape::Cross)[0] - (4.0 * 0.56 * 0.72 + 0.56 * 0.56)).abs() < 1e-5);
        let disc = std::f32::consts::PI * 0.85 * 0.85;
        assert!((of(Shape::Disc)[0] - disc).abs() < 0.01 * disc);
        assert!((of(Shape::Arrow)[0] - (1.3 * 0.52 + 0.8 * 0.75)).abs() < 1e-5);
    }

    #[test]
    fn every_shape_fits_its_radius() {
        for shape in Shape::ALL {
            for [x, y] in shape.outline().concat() {
                assert!(x.hypot(y) < 1.35, "{shape:?} reaches {x}, {y}");
            }
        }
    }
}
