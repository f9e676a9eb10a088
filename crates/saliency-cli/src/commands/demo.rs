use std::{
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

use maud::{Markup, html};
use saliency_core::{
    Attribution, Evaluations, Family, Map, Method, Recipe, Reduction, Target,
    analysis::{Localisation, localisation},
};
use saliency_models::{
    demo,
    photo::RgbImage,
    scenes::{Scene, Scenes},
};
use saliency_viz::{Cell, Grid, Style, gallery, heatmap, outline, save_png, standard};
use serde::Serialize;

use crate::{
    args::Demo,
    device,
    error::Error,
    files,
    model::{self, Loaded},
    page::page,
    progress,
    report::{self, ClassReport},
};

/// Scenes that pictures are drawn of.
const DRAWN: usize = 6;
const REDUCTION: Reduction = Reduction::Max;

/// How well one method's maps fall on the objects.
#[derive(Serialize)]
struct Score {
    method: String,
    family: Option<Family>,
    recipe: Recipe,
    reduction: Reduction,
    scenes: usize,
    /// Share of maps whose maximum is on the object.
    pointing_game: f64,
    /// Mean share of a map's mass that is on the object.
    mass: f64,
    /// Mean share of the picture that is object: what a flat map would score.
    area: f64,
    seconds_per_map: f64,
    /// Rows through the model for one map.
    evaluations: Evaluations,
}

struct Drawn {
    scene: Scene,
    predicted: ClassReport,
    folder: String,
    maps: Vec<Picture>,
}

/// The pictures of one method, relative to the page.
struct Picture {
    method: String,
    family: Option<Family>,
    thumbnail: String,
    whole: String,
}

pub fn run(args: &Demo) -> Result<(), Error> {
    files::folder(&args.out)?;
    let loaded = Loaded::demo(device::open(&args.device)?)?;
    let scenes: Vec<Scene> = (0..args.scenes as u64)
        .map(|index| Scenes::new(demo::TEST_SEED).get(index))
        .collect();
    let pictures: Vec<RgbImage> = scenes.iter().map(|s| s.image.clone()).collect();
    let input = loaded.preprocess.batch(&pictures, &loaded.device)?;
    let target = Target::PerRow(scenes.iter().map(|s| s.shape.class()).collect());

    let mut drawn = Vec::new();
    let mut right = 0.0;
    let mut scores = Vec::new();
    let mut left_out: Vec<LeftOut> = Vec::new();
    let mut families: Vec<(Family, Vec<(String, Grid)>)> = Vec::new();
    for recipe in model::demo_methods(args.presets) {
        let name = recipe.name();
        let progress = progress::callback(&name);
        let run = loaded.run().progress(&progress);
        let started = Instant::now();
        let attribution = match recipe.explain_with(loaded.model(), input.clone(), &target, &run) {
            Ok(attribution) => attribution,
            Err(error) if is_for_others(&error, scenes.len()) => {
                LeftOut::add(&mut left_out, &name, &error);
                continue;
            }
            Err(error) => {
                return Err(Error::Method {
                    method: name.clone(),
                    error,
                });
            }
        };
        let maps = attribution.maps(REDUCTION)?;
        let seconds = started.elapsed().as_secs_f64() / scenes.len() as f64;
        if drawn.is_empty() {
            drawn = begin(&scenes, &loaded, &attribution, &args.out)?;
            right = accuracy(&attribution, &scenes)?;
        }
        for (entry, map) in drawn.iter_mut().zip(&maps) {
            draw(entry, &attribution, map, &args.out)?;
        }
        scores.push(score(&attribution, &maps, &scenes, seconds)?);
        if let Some(info) = recipe.info() {
            let item = (name.clone(), report::grid(&maps[0])?);
            match families
                .iter_mut()
                .find(|(family, _)| *family == info.family)
            {
                Some((_, items)) => items.push(item),
                None => families.push((info.family, vec![item])),
            }
        }
    }
    for (family, items) in &families {
        let name = report::label(family);
        let title = format!("{name}: {}", scenes[0].shape.name());
        let style = Style::default();
        let picture = gallery(&scenes[0].image, items, &title, Cell::Heatmap, &style)?;
        save_png(&picture, args.out.join(format!("family-{name}.png")))?;
    }
    let page = args.out.join("index.html");
    files::write(
        &page,
        html(&scores, &drawn, &left_out, right, &loaded, args.presets)
            .into_string()
            .as_bytes(),
    )?;
    files::write(
        &args.out.join("scores.json"),
        report::to_json(&scores)?.as_bytes(),
    )?;
    let markdown = report::markdown(&HEADER, rows(&scores));
    files::write(&args.out.join("scores.md"), markdown.as_bytes())?;
    report::print(&table(&scores))?;
    for line in &left_out {
        report::print(&format!("left out: {line}"))?;
    }
    report::print(&format!(
        "predicted {} of {} unseen scenes right, on {}\nopen {}",
        report::percent(right),
        scenes.len(),
        device::describe(&loaded.device),
        absolute(&page).display()
    ))
}

/// Methods that this network is not for, and why.
struct LeftOut {
    methods: Vec<String>,
    reason: String,
}

impl LeftOut {
    fn add(all: &mut Vec<LeftOut>, method: &str, error: &saliency_core::Error) {
        let reason = error.to_string();
        match all.iter_mut().find(|known| known.reason == reason) {
            Some(known) => known.methods.push(method.into()),
            None => all.push(LeftOut {
                methods: vec![method.into()],
                reason,
            }),
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.methods.join(", "), self.reason)
    }
}

/// Whether an error says that the method is for other networks, or for more scenes.
fn is_for_others(error: &saliency_core::Error, scenes: usize) -> bool {
    use saliency_core::Error as E;
    match error {
        E::NoAttention | E::NoSpatialLayer | E::NeedsGraph { .. } => true,
        E::Shape { .. } => scenes == 1,
        _ => false,
    }
}

fn score(
    attribution: &Attribution<4>,
    maps: &[Map],
    scenes: &[Scene],
    seconds: f64,
) -> Result<Score, Error> {
    let recipe = &attribution.recipe;
    let found = maps
        .iter()
        .zip(scenes)
        .map(|(map, scene)| Ok(localisation(map, &scene.mask)?))
        .collect::<Result<Vec<Localisation>, Error>>()?;
    let mean =
        |of: &dyn Fn(&Localisation) -> f64| found.iter().map(of).sum::<f64>() / found.len() as f64;
    let per_map = |rows: usize| rows.div_ceil(scenes.len());
    Ok(Score {
        method: recipe.name(),
        family: recipe.info().map(|info| info.family),
        recipe: recipe.clone(),
        reduction: REDUCTION,
        scenes: found.len(),
        pointing_game: mean(&|l| f64::from(u8::from(l.hit))),
        mass: mean(&|l| l.mass),
        area: mean(&|l| l.area),
        seconds_per_map: seconds,
        evaluations: Evaluations {
            forward: per_map(attribution.evaluations.forward),
            gradient: per_map(attribution.evaluations.gradient),
        },
    })
}

fn accuracy(attribution: &Attribution<4>, scenes: &[Scene]) -> Result<f64, Error> {
    let predicted: Vec<i64> = attribution
        .outputs
        .clone()
        .argmax(1)
        .try_into_vec_as()
        .map_err(Error::reading)?;
    let right = predicted
        .iter()
        .zip(scenes)
        .filter(|(p, scene)| **p as usize == scene.shape.class())
        .count();
    Ok(right as f64 / scenes.len() as f64)
}

/// Writes each drawn scene and its mask.
fn begin(
    scenes: &[Scene],
    loaded: &Loaded,
    attribution: &Attribution<4>,
    out: &Path,
) -> Result<Vec<Drawn>, Error> {
    let probabilities = attribution.probabilities()?;
    scenes
        .iter()
        .take(DRAWN)
        .enumerate()
        .map(|(index, scene)| {
            let folder = format!("{:02}-{}", index + 1, scene.shape.name());
            std::fs::create_dir_all(out.join(&folder))
                .map_err(|e| Error::file(&out.join(&folder), e))?;
            let truth = outline(&scene.image, &scene.mask, [0, 255, 0])?;
            let mask = RgbImage::from_fn(scene.image.width(), scene.image.height(), |x, y| {
                let on = scene.mask[(y * scene.image.width() + x) as usize];
                image::Rgb([if on { 255 } else { 0 }; 3])
            });
            save_png(&scene.image, out.join(&folder).join("scene.png"))?;
            save_png(&truth, out.join(&folder).join("truth.png"))?;
            save_png(&mask, out.join(&folder).join("mask.png"))?;
            Ok(Drawn {
                scene: scene.clone(),
                predicted: ClassReport::best(loaded, &probabilities[index]),
                folder,
                maps: Vec::new(),
            })
        })
        .collect()
}

/// Writes the pictures of one method for one scene.
fn draw(
    entry: &mut Drawn,
    attribution: &Attribution<4>,
    map: &Map,
    out: &Path,
) -> Result<(), Error> {
    let name = attribution.recipe.name();
    let file = files::slug(&name);
    let path = |suffix: &str| format!("{}/{file}{suffix}.png", entry.folder);
    let (thumbnail, whole) = (path("-map"), path(""));
    let style = Style::default();
    let title = format!("{name}: {}", entry.scene.shape.name());
    let grid = report::grid(map)?;
    save_png(&heatmap(&grid, style.map), out.join(&thumbnail))?;
    save_png(
        &standard(&entry.scene.image, &grid, &title, &style)?,
        out.join(&whole),
    )?;
    entry.maps.push(Picture {
        family: attribution.recipe.info().map(|info| info.family),
        method: name,
        thumbnail,
        whole,
    });
    Ok(())
}

const HEADER: [&str; 7] = [
    "method",
    "maximum on object",
    "mass on object",
    "object's area",
    "a map takes",
    "forward passes",
    "gradients",
];

fn rows(scores: &[Score]) -> impl Iterator<Item = Vec<String>> {
    scores.iter().map(|s| {
        vec![
            s.method.clone(),
            report::percent(s.pointing_game),
            report::percent(s.mass),
            report::percent(s.area),
            report::milliseconds(s.seconds_per_map),
            s.evaluations.forward.to_string(),
            s.evaluations.gradient.to_string(),
        ]
    })
}

fn table(scores: &[Score]) -> String {
    report::table(&HEADER, rows(scores))
}

const STYLE: &str = "
td.n { text-align: right; font-variant-numeric: tabular-nums }
img { width: 8.5rem; height: 8.5rem; image-rendering: pixelated; display: block }
.maps { display: flex; flex-wrap: wrap; gap: .8rem } figure { margin: 0; width: 8.5rem }
figcaption { font-size: .8rem; overflow-wrap: anywhere } .wrong { color: #b00 }";

fn html(
    scores: &[Score],
    drawn: &[Drawn],
    left_out: &[LeftOut],
    accuracy: f64,
    loaded: &Loaded,
    presets: bool,
) -> Markup {
    let body = html! {
        h1 { "What did the network look at?" }
        p {
            "A small network tells which shape is in a generated scene. The object's mask is known, "
            "so every method's maps can be measured: how often a map's maximum falls on the object "
            "(the pointing game), and how much of its mass does. The model was right on "
            (report::percent(accuracy)) " of these scenes, which it had not seen in training. Ran on "
            (device::describe(&loaded.device)) "."
        }
        (measured(scores))
        @if !presets {
            p { small {
                "Presets, which are methods with other options, are left out, but for the forms of SmoothGrad: "
                code { "saliency demo --presets" } " shows all of them, "
                code { "saliency methods" } " lists them."
            } }
        }
        @if !left_out.is_empty() {
            p { "Left out: " }
            ul { @for line in left_out { li { small { (line.to_string()) } } } }
        }
        h2 { "Scenes" }
        p { "A map opens its full picture. Channels are reduced by " code { (REDUCTION) } "; sampled methods take fewer samples than by default." }
        @for entry in drawn { (scene(entry)) }
    };
    page("saliency demo", STYLE, &body)
}

fn measured(scores: &[Score]) -> Markup {
    html! {
        h2 { "Measured on " (scores[0].scenes) " scenes" }
        table {
            thead { tr {
                th { "method" } th { "maximum on object" } th { "mass on object" } th { "a map takes" }
                th { "forward passes" } th { "gradients" }
            } }
            tbody {
                @for score in scores { tr {
                    td { (score.method) }
                    td.n { (report::percent(score.pointing_game)) }
                    td.n { (report::percent(score.mass)) }
                    td.n { (report::milliseconds(score.seconds_per_map)) }
                    td.n { (score.evaluations.forward) }
                    td.n { (score.evaluations.gradient) }
                } }
                tr { td { small { "a flat map" } } td.n { small { (report::percent(scores[0].area)) } } td.n { small { (report::percent(scores[0].area)) } } td {} }
            }
        }
    }
}

fn scene(entry: &Drawn) -> Markup {
    let right = entry.predicted.class == entry.scene.shape.class();
    let file = |name: &str| format!("{}/{name}.png", entry.folder);
    let families: Vec<Option<Family>> = entry.maps.iter().fold(Vec::new(), |mut seen, map| {
        if !seen.contains(&map.family) {
            seen.push(map.family);
        }
        seen
    });
    html! {
        h3 { (entry.scene.shape.name()) }
        div.maps {
            figure { img src=(file("scene")) alt="scene"; figcaption { "predicted " @if right { (entry.predicted.caption()) } @else { span.wrong { (entry.predicted.caption()) } } } }
            figure { img src=(file("truth")) alt="object outlined"; figcaption { "object" } }
            figure { img src=(file("mask")) alt="ground-truth mask"; figcaption { "mask" } }
        }
        @for family in families {
            h4 { (family.map_or_else(String::new, report::label)) }
            div.maps {
                @for map in entry.maps.iter().filter(|map| map.family == family) {
                    figure {
                        a href=(map.whole) { img src=(map.thumbnail) alt=(map.method) loading="lazy"; }
                        figcaption { (map.method) }
                    }
                }
            }
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
