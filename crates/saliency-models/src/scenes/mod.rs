//! Generated scenes with known ground truth: one object of a known class, textured, scaled
//! and rotated, over a cluttered background with distractors, and the mask of its pixels.
//!
//! A scene is a pure function of a seed and an index, so data sets need no files: training
//! uses one seed, testing another.

mod paint;
mod shapes;

use image::RgbImage;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use shapes::Shape;

use paint::{Canvas, Colour, Texture};

/// Side of a scene in pixels.
pub const SIZE: usize = 96;

/// One generated picture and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// The picture, [`SIZE`] x [`SIZE`].
    pub image: RgbImage,
    /// True on the object's pixels (at least half covered by it), row by row.
    pub mask: Vec<bool>,
    /// What the object is.
    pub shape: Shape,
}

/// An endless sequence of scenes.
///
/// ```
/// use saliency_models::scenes::{SIZE, Scenes};
/// let scenes = Scenes::new(7);
/// assert_eq!(scenes.get(3), scenes.get(3));
/// assert_ne!(scenes.get(3).image, scenes.get(4).image);
/// assert_eq!(scenes.get(3).mask.len(), SIZE * SIZE);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenes {
    seed: u64,
}

impl Scenes {
    /// The scenes of a seed.
    pub fn new(seed: u64) -> Self {
        Scenes { seed }
    }

    /// Scene number `index`. Classes come in turn, so any run of
    /// [`Shape::ALL`]`.len()` scenes has each once.
    pub fn get(&self, index: u64) -> Scene {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(index);
        let shape = Shape::ALL[(index % Shape::ALL.len() as u64) as usize];
        draw(shape, &mut rng)
    }
}

fn draw(shape: Shape, rng: &mut ChaCha8Rng) -> Scene {
    let mut canvas = Canvas::new(SIZE);
    let ground = Colour::random(rng);
    canvas.background(ground, rng);
    for _ in 0..rng.random_range(5..12) {
        distractor(&mut canvas, rng);
    }

    let radius = SIZE as f32 * rng.random_range(0.20..0.32);
    let centre = |rng: &mut ChaCha8Rng| rng.random_range(radius * 0.9..SIZE as f32 - radius * 0.9);
    let (x, y) = (centre(rng), centre(rng));
    let angle = rng.random_range(0.0..std::f32::consts::TAU);
    let outline = shapes::place(&shape.outline(), [x, y], radius, angle);
    let texture = Texture::contrasting(ground, radius, rng);
    let coverage = canvas.fill(&outline, &texture);
    let image = canvas.finish(rng);
    Scene {
        image,
        mask: coverage.iter().map(|&c| c >= 0.5).collect(),
        shape,
    }
}

/// Something that is of no class: a blurred blob, a thin bar, a scribble or a small shard.
fn distractor(canvas: &mut Canvas, rng: &mut ChaCha8Rng) {
    let size = SIZE as f32;
    let at = [rng.random_range(0.0..size), rng.random_range(0.0..size)];
    let angle = rng.random_range(0.0..std::f32::consts::TAU);
    let colour = Colour::random(rng);
    match rng.random_range(0..4) {
        0 => canvas.blob(at, rng.random_range(3.0..10.0), colour),
        1 => {
            let length = rng.random_range(0.1..0.35);
            let bar = shapes::bar(length, rng.random_range(0.01..0.03));
            canvas.fill(
                &shapes::place(&bar, at, size, angle),
                &Texture::Solid(colour),
            );
        }
        2 => {
            let mut from = at;
            for _ in 0..rng.random_range(2..6) {
                let to = [
                    from[0] + rng.random_range(-14.0..14.0),
                    from[1] + rng.random_range(-14.0..14.0),
                ];
                canvas.fill(&shapes::segment(from, to, 0.9), &Texture::Solid(colour));
                from = to;
            }
        }
        _ => {
            let shard = shapes::shard(rng);
            let placed = shapes::place(&shard, at, rng.random_range(3.0..7.0), angle);
            canvas.fill(&placed, &Texture::random(colour, 4.0, rng));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_is_seen_whole_enough_and_differs_from_what_is_around_it() {
        let scenes = Scenes::new(1);
        for index in 0..240 {
            let scene = scenes.get(index);
            let area = scene.mask.iter().filter(|&&on| on).count() as f32;
            let share = area / scene.mask.len() as f32;
            assert!(
                (0.012..0.4).contains(&share),
                "{index} {:?}: {share}",
                scene.shape
            );
            let mean = |inside: bool| {
                let mut sum = [0.0f32; 3];
                let mut n = 0.0;
                for (pixel, &on) in scene.image.pixels().zip(&scene.mask) {
                    if on == inside {
                        n += 1.0;
                        for (sum, value) in sum.iter_mut().zip(pixel.0) {
                            *sum += value as f32;
                        }
                    }
                }
                sum.map(|s| s / n)
            };
            let (inside, outside) = (mean(true), mean(false));
            let gap: f32 = (0..3).map(|c| (inside[c] - outside[c]).abs()).sum();
            assert!(gap > 20.0, "{index} {:?}: {gap}", scene.shape);
        }
    }

    #[test]
    fn classes_come_in_turn() {
        let scenes = Scenes::new(5);
        for index in 0..24 {
            assert_eq!(scenes.get(index).shape, Shape::ALL[index as usize % 12]);
        }
    }
}
