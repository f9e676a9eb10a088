//! One of each chart for tables and series, from made-up numbers:
//!
//!     cargo run -p saliency-viz --example charts FOLDER

use std::{env, error::Error, fs, path::PathBuf};

use saliency_viz::{
    Bar, Grid, Swarm, Track, bars, beeswarm, magnitudes, save_png, series, time_heat,
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args().nth(1).unwrap_or_else(|| "charts".into()));
    fs::create_dir_all(&folder)?;
    let wave = |i: usize, pace: f32| (i as f32 * pace).sin();

    let names = ["income", "housing", "age", "savings", "purpose"];
    let row = [
        Bar::new("income", -1.31).detail("= 1 200").share(0.44),
        Bar::new("housing", 0.82).detail("= rent").share(0.28),
        Bar::new("age", 0.45).detail("= 23").share(0.15),
        Bar::new("savings", 0.28).detail("= none").share(0.09),
        Bar::new("purpose", -0.11).detail("= a car").share(0.04),
    ];
    let picture = bars(&row, "Row 17: default", "contribution to the score")?;
    save_png(&picture, folder.join("row.png"))?;

    let importance: Vec<Bar> = (names.iter().enumerate())
        .map(|(i, name)| {
            let mean = 1.2 / (1.0 + i as f32);
            Bar::new(*name, mean).interval(0.9 * mean, 1.1 * mean)
        })
        .collect();
    let picture = magnitudes(&importance, "10 000 rows", "mean |contribution|")?;
    save_png(&picture, folder.join("importance.png"))?;

    let swarms: Vec<Swarm> = (names.iter().enumerate())
        .map(|(row, name)| Swarm {
            name: name.to_string(),
            points: (0..400)
                .map(|i| {
                    let value = wave(i, 12.9898) + wave(i, 78.233);
                    let noise = 0.2 * wave(i, 4.1 + row as f32);
                    let ordered = (row != 1).then_some(value);
                    (value * 1.2 / (1.0 + row as f32) + noise, ordered)
                })
                .collect(),
        })
        .collect();
    let picture = beeswarm(&swarms, "400 rows", "contribution to the score")?;
    save_png(&picture, folder.join("beeswarm.png"))?;

    let days: Vec<String> = (0..90)
        .map(|i| format!("2020-{:02}-{:02}", 1 + i / 30, 1 + i % 30))
        .collect();
    let saliency: Vec<f32> = (0..90)
        .map(|i| wave(i, 0.4) * (-((i as f32 - 60.0) / 9.0).powi(2)).exp())
        .collect();
    let track = |name: &str, pace: f32, part: f32| Track {
        name: name.to_string(),
        values: (0..90)
            .map(|i| 100.0 + 5.0 * wave(i, pace) + i as f32 / 9.0)
            .collect(),
        saliency: saliency.iter().map(|s| s * part).collect(),
    };
    let tracks = [track("close", 0.21, 1.0), track("volume", 0.77, -0.4)];
    let picture = series(&days, &tracks, "2020-01-01..2020-03-30: up", "contribution")?;
    save_png(&picture, folder.join("series.png"))?;

    let values: Vec<f32> = (0..names.len())
        .flat_map(|row| saliency.iter().map(move |s| s / (1.0 + row as f32)))
        .collect();
    let values = Grid::new(days.len(), names.len(), values)?;
    let names = names.map(String::from);
    let picture = time_heat(&values, &days, &names, "Features over time", "contribution")?;
    save_png(&picture, folder.join("heat.png"))?;
    Ok(())
}
