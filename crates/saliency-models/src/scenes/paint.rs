use image::{Rgb, RgbImage};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::shapes::{Outline, Point};

/// Linear RGB in 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colour(pub [f32; 3]);

impl Colour {
    pub(super) fn random(rng: &mut ChaCha8Rng) -> Self {
        Colour(std::array::from_fn(|_| rng.random_range(0.05..0.95)))
    }

    fn mix(self, other: Colour, share: f32) -> Colour {
        Colour(std::array::from_fn(|c| {
            self.0[c] + (other.0[c] - self.0[c]) * share
        }))
    }

    fn distance(self, other: Colour) -> f32 {
        (0..3).map(|c| (self.0[c] - other.0[c]).abs()).sum()
    }

    /// A random colour at least `gap` (summed over channels) away.
    fn away(self, gap: f32, rng: &mut ChaCha8Rng) -> Colour {
        loop {
            let colour = Colour::random(rng);
            if colour.distance(self) >= gap {
                return colour;
            }
        }
    }
}

/// What a figure is filled with.
#[derive(Clone, Debug)]
pub(super) enum Texture {
    Solid(Colour),
    Stripes(Pattern),
    Checks(Pattern),
    Dots(Pattern),
    Shade(Pattern),
}

/// Two colours alternating over `period` pixels along the direction `axis`.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    colours: [Colour; 2],
    axis: Point,
    period: f32,
}

impl Texture {
    pub(super) fn random(colour: Colour, period: f32, rng: &mut ChaCha8Rng) -> Self {
        let (sin, cos) = rng.random_range(0.0..std::f32::consts::TAU).sin_cos();
        let share = rng.random_range(0.3..0.7);
        let pattern = Pattern {
            colours: [colour, colour.mix(Colour::random(rng), share)],
            axis: [cos, sin],
            period,
        };
        match rng.random_range(0..5) {
            0 => Texture::Solid(colour),
            1 => Texture::Stripes(pattern),
            2 => Texture::Checks(pattern),
            3 => Texture::Dots(pattern),
            _ => Texture::Shade(pattern),
        }
    }

    /// A texture whose main colour stands out from `ground`.
    pub(super) fn contrasting(ground: Colour, radius: f32, rng: &mut ChaCha8Rng) -> Self {
        let colour = ground.away(1.0, rng);
        let period = radius * rng.random_range(0.25..0.6);
        match Texture::random(colour, period, rng) {
            Texture::Solid(colour) => Texture::Solid(colour),
            Texture::Stripes(p) => Texture::Stripes(p.kept_away(ground)),
            Texture::Checks(p) => Texture::Checks(p.kept_away(ground)),
            Texture::Dots(p) => Texture::Dots(p.kept_away(ground)),
            Texture::Shade(p) => Texture::Shade(p.kept_away(ground)),
        }
    }

    fn at(&self, x: f32, y: f32) -> Colour {
        match self {
            Texture::Solid(colour) => *colour,
            Texture::Stripes(p) => p.colours[p.cell(x, y)[0].rem_euclid(2.0) as usize],
            Texture::Checks(p) => {
                let [u, v] = p.cell(x, y);
                p.colours[(u + v).rem_euclid(2.0) as usize]
            }
            Texture::Dots(p) => {
                let [u, v] = p.turned(x, y);
                let (du, dv) = (u.rem_euclid(1.0) - 0.5, v.rem_euclid(1.0) - 0.5);
                p.colours[usize::from(du.hypot(dv) < 0.28)]
            }
            Texture::Shade(p) => {
                let [u, _] = p.turned(x, y);
                p.colours[0].mix(p.colours[1], (u * 0.7).sin() * 0.5 + 0.5)
            }
        }
    }
}

impl Pattern {
    /// The second colour pulled to the first until it is no nearer to `ground` than half of
    /// the first's distance.
    fn kept_away(mut self, ground: Colour) -> Self {
        let [first, second] = self.colours;
        if second.distance(ground) < 0.5 * first.distance(ground) {
            self.colours[1] = second.mix(first, 0.7);
        }
        self
    }

    fn turned(&self, x: f32, y: f32) -> Point {
        let [a, b] = self.axis;
        [(x * a + y * b) / self.period, (y * a - x * b) / self.period]
    }

    fn cell(&self, x: f32, y: f32) -> Point {
        self.turned(x, y).map(f32::floor)
    }
}

/// A square picture being painted.
pub(super) struct Canvas {
    size: usize,
    pixels: Vec<[f32; 3]>,
}

impl Canvas {
    pub(super) fn new(size: usize) -> Self {
        Canvas {
            size,
            pixels: vec![[0.0; 3]; size * size],
        }
    }

    /// A gradient under value noise, around `ground`.
    pub(super) fn background(&mut self, ground: Colour, rng: &mut ChaCha8Rng) {
        let far = ground.mix(Colour::random(rng), 0.35);
        let fleck = ground.mix(Colour::random(rng), 0.5);
        let (sin, cos) = rng.random_range(0.0..std::f32::consts::TAU).sin_cos();
        let coarse = Lattice::random(rng.random_range(3..7), rng);
        let fine = Lattice::random(rng.random_range(12..32), rng);
        let (strength, grain) = (rng.random_range(0.2..0.9), rng.random_range(0.0..0.5));
        let scale = 1.0 / self.size as f32;
        for y in 0..self.size {
            for x in 0..self.size {
                let (u, v) = (x as f32 * scale, y as f32 * scale);
                let along = ((u - 0.5) * cos + (v - 0.5) * sin + 0.5).clamp(0.0, 1.0);
                let share = coarse.at(u, v) * strength * 0.6 + fine.at(u, v) * grain * 0.6;
                self.pixels[y * self.size + x] = ground.mix(far, along).mix(fleck, share).0;
            }
        }
    }

    /// A soft round spot with standard deviation `sigma` pixels.
    pub(super) fn blob(&mut self, at: Point, sigma: f32, colour: Colour) {
        let size = self.size;
        for (index, pixel) in self.pixels.iter_mut().enumerate() {
            let (dx, dy) = ((index % size) as f32 - at[0], (index / size) as f32 - at[1]);
            let weight = 0.8 * (-(dx * dx + dy * dy) / (2.0 * sigma * sigma)).exp();
            *pixel = Colour(*pixel).mix(colour, weight).0;
        }
    }

    /// Fills the outline (even-odd) and returns each pixel's coverage in 0..1.
    pub(super) fn fill(&mut self, outline: &Outline, texture: &Texture) -> Vec<f32> {
        let coverage = coverage(outline, self.size);
        for (index, &share) in coverage.iter().enumerate() {
            if share > 0.0 {
                let (x, y) = ((index % self.size) as f32, (index / self.size) as f32);
                let pixel = &mut self.pixels[index];
                *pixel = Colour(*pixel).mix(texture.at(x, y), share).0;
            }
        }
        coverage
    }

    /// The picture with a little camera noise, in 8 bits.
    pub(super) fn finish(self, rng: &mut ChaCha8Rng) -> RgbImage {
        let grain = rng.random_range(0.0..0.04);
        let size = self.size as u32;
        RgbImage::from_fn(size, size, |x, y| {
            let pixel = self.pixels[(y * size + x) as usize];
            Rgb(pixel.map(|v| {
                let noise = rng.random_range(-grain..=grain);
                ((v + noise).clamp(0.0, 1.0) * 255.0).round() as u8
            }))
        })
    }
}

/// Random values on a grid, interpolated smoothly.
struct Lattice {
    cells: usize,
    values: Vec<f32>,
}

impl Lattice {
    fn random(cells: usize, rng: &mut ChaCha8Rng) -> Self {
        let values = (0..(cells + 1) * (cells + 1))
            .map(|_| rng.random_range(0.0..1.0))
            .collect();
        Lattice { cells, values }
    }

    /// The value at (u, v) in 0..1.
    fn at(&self, u: f32, v: f32) -> f32 {
        let (x, y) = (u * self.cells as f32, v * self.cells as f32);
        let (i, j) = (x as usize, y as usize);
        let ease = |t: f32| t * t * (3.0 - 2.0 * t);
        let (fx, fy) = (ease(x.fract()), ease(y.fract()));
        let value = |i: usize, j: usize| self.values[j * (self.cells + 1) + i];
        let top = value(i, j) + (value(i + 1, j) - value(i, j)) * fx;
        let bottom = value(i, j + 1) + (value(i + 1, j + 1) - value(i, j + 1)) * fx;
        top + (bottom - top) * fy
    }
}

/// How much of each pixel the outline covers: four scan lines a pixel, exact along each.
fn coverage(outline: &Outline, size: usize) -> Vec<f32> {
    const LINES: usize = 4;
    let mut covered = vec![0.0f32; size * size];
    let mut crossings = Vec::new();
    for line in 0..size * LINES {
        let y = (line as f32 + 0.5) / LINES as f32;
        crossings.clear();
        for polygon in outline {
            let ends = polygon.iter().zip(polygon.iter().cycle().skip(1));
            for (&[x0, y0], &[x1, y1]) in ends {
                if (y0 <= y) != (y1 <= y) {
                    crossings.push(x0 + (y - y0) / (y1 - y0) * (x1 - x0));
                }
            }
        }
        crossings.sort_by(f32::total_cmp);
        let row = &mut covered[line / LINES * size..][..size];
        for pair in crossings.chunks_exact(2) {
            let (from, to) = (pair[0].max(0.0), pair[1].min(size as f32));
            let mut x = from;
            while x < to {
                let pixel = x as usize;
                let end = to.min((pixel + 1) as f32);
                row[pixel.min(size - 1)] += (end - x) / LINES as f32;
                x = if end > x { end } else { to };
            }
        }
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_of_a_square_is_its_area() {
        let square: Outline = vec![vec![[2.25, 2.0], [6.75, 2.0], [6.75, 5.5], [2.25, 5.5]]];
        let covered = coverage(&square, 10);
        assert!((covered.iter().sum::<f32>() - 4.5 * 3.5).abs() < 1e-4);
        assert_eq!(covered[3 * 10 + 3], 1.0);
        assert!((covered[3 * 10 + 2] - 0.75).abs() < 1e-5);
        assert!((covered[5 * 10 + 3] - 0.5).abs() < 1e-5);
        assert_eq!(covered[3 * 10 + 8], 0.0);
    }

    #[test]
    fn holes_and_borders() {
        let outer = vec![[-5.0, -5.0], [20.0, -5.0], [20.0, 20.0], [-5.0, 20.0]];
        let hole = vec![[4.0, 4.0], [6.0, 4.0], [6.0, 6.0], [4.0, 6.0]];
        let covered = coverage(&vec![outer, hole], 8);
        assert!((covered.iter().sum::<f32>() - 60.0).abs() < 1e-3);
        assert_eq!(covered[5 * 8 + 5], 0.0);
    }
}
