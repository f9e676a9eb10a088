//! Rows and windows of CSV files: `explain --data` and `importance`.

use std::{fmt::Write, ops::ControlFlow};

use burn::tensor::Device;
use saliency_core::noise::standard_normal;
use saliency_models::{
    predictor::Family,
    train::{SequenceOptions, TrainOptions, train},
};
use serde_json::Value;

use super::{DEMO, Sandbox, dimensions, listed};

/// Ages, incomes, towns and noise; the two of them that matter decide the answer.
fn credit(rows: usize) -> String {
    let mut text = String::from("age,income,town,noise,answer\n");
    for row in 0..rows {
        let z = standard_normal(3, row, 4);
        let town = ["Rome", "Oslo", "Lima"][row % 3];
        let bonus = [1.5, 0.0, -1.5][row % 3];
        let answer = if 2.0 * z[1] + bonus + 0.3 * z[3] > 0.0 {
            "yes"
        } else {
            "no"
        };
        let (age, income) = (40.0 + 10.0 * z[0], 3000.0 + 800.0 * z[1]);
        writeln!(text, "{age:.1},{income:.0},{town},{:.3},{answer}", z[2]).unwrap();
    }
    text
}

/// Ninety days of two columns; the next price is the last one plus half of `news`.
fn prices() -> String {
    let mut text = String::from("day,news,price\n");
    let mut price = 100.0;
    for day in 0..90 {
        let z = standard_normal(4, day, 2);
        let month = 1 + day / 28;
        writeln!(
            text,
            "2020-{month:02}-{:02},{:.3},{price:.3}",
            1 + day % 28,
            z[0]
        )
        .unwrap();
        price += f64::from(z[0]) / 2.0;
    }
    text
}

impl Sandbox {
    fn with_credit() -> Self {
        let sandbox = Sandbox::new();
        sandbox.write("rows.csv", credit(300));
        let mut options = TrainOptions::new("answer");
        options.family = Some(Family::Linear);
        options.epochs = 30;
        sandbox.train("rows.csv", "credit", &options);
        sandbox
    }

    fn with_prices() -> Self {
        let sandbox = Sandbox::new();
        sandbox.write("prices.csv", prices());
        let mut options = TrainOptions::new("price");
        options.sequence = Some(SequenceOptions {
            horizon: vec![1, 2],
            ..SequenceOptions::new(6)
        });
        options.epochs = 3;
        sandbox.train("prices.csv", "prices", &options);
        sandbox
    }

    fn train(&self, data: &str, folder: &str, options: &TrainOptions) {
        let mut go_on = |_| ControlFlow::Continue(());
        let trained = train(options, self.path(data), &Device::flex(), &mut go_on).unwrap();
        trained.save(self.path(folder), "a test").unwrap();
    }

    fn rows(&self, args: &[&str]) -> Vec<Value> {
        let start = [
            "explain", "--data", "rows.csv", "--model", "credit", "--device", "cpu",
        ];
        match self.json(&[&start[..], &["--json"], args].concat()) {
            Value::Array(reports) => reports,
            other => panic!("not a list: {other}"),
        }
    }

    fn importance(&self, args: &[&str]) -> Value {
        let start = [
            "importance",
            "--data",
            "rows.csv",
            "--model",
            "credit",
            "--device",
            "cpu",
        ];
        self.json(&[&start[..], &["--json"], args].concat())
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

fn names(features: &Value) -> Vec<&str> {
    let features = features.as_array().unwrap();
    features
        .iter()
        .map(|f| f["name"].as_str().unwrap())
        .collect()
}

#[test]
fn a_row_is_explained_by_named_features() {
    let sandbox = Sandbox::with_credit();
    let save = ["--row", "17", "--save", "png,json,csv,npy", "--out", "out"];
    let reports = sandbox.rows(&save);
    let [report] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!(
        (report["name"].as_str(), &report["rows"][0]),
        (Some("row 17"), &17.into())
    );
    let features = report["features"].as_array().unwrap();
    assert_eq!(features.len(), 4, "one-hot columns are one feature");
    let sizes: Vec<f64> = features.iter().map(|f| number(&f["magnitude"])).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    let shares: f64 = features.iter().map(|f| number(&f["share"])).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    assert!(number(&report["trust"]["delta"]).abs() < 1e-3, "{report}");
    assert!(
        report["target"]
            .as_str()
            .unwrap()
            .starts_with("log-odds of ")
    );
    let cell = credit(300)
        .lines()
        .nth(17)
        .unwrap()
        .split(',')
        .nth(2)
        .unwrap()
        .to_owned();
    let town = features.iter().find(|f| f["name"] == "town").unwrap();
    assert_eq!(town["text"].as_str(), Some(cell.as_str()));

    let files = listed(report);
    let stem = "out/rows-row-17-integrated-gradients";
    let want = [".png", ".csv", ".npy", ".json"].map(|suffix| format!("{stem}{suffix}"));
    assert_eq!(files, want);
    assert!(dimensions(&sandbox, &format!("{stem}.png")).0 > 500);
    let table = String::from_utf8(sandbox.read(&format!("{stem}.csv"))).unwrap();
    assert_eq!(table.lines().count(), 5);
    assert!(
        table.starts_with("feature,value,contribution,share\nage,"),
        "{table}"
    );
    // Six encoded columns: three numbers and three towns.
    let npy = sandbox.read(&format!("{stem}.npy"));
    let header = String::from_utf8_lossy(&npy[..128.min(npy.len())]).into_owned();
    assert!(header.replace(' ', "").contains("'shape':(6,)"), "{header}");

    let start = [
        "explain", "--data", "rows.csv", "--model", "credit", "--device", "cpu",
    ];
    let text =
        sandbox.succeeds(&[&start[..], &["--row", "17", "--top", "2", "--save", "none"]].concat());
    assert_eq!(text.matches(" %").count(), 3, "{text}");
    assert!(
        text.contains("row 17: ") && text.contains("share"),
        "{text}"
    );
}

#[test]
fn rows_are_explained_in_ranges_and_for_any_target() {
    let sandbox = Sandbox::with_credit();
    let some = sandbox.rows(&["--row", "7,3..5,4", "--save", "none"]);
    let rows: Vec<u64> = some
        .iter()
        .map(|r| r["rows"][0].as_u64().unwrap())
        .collect();
    assert_eq!(rows, [3, 4, 5, 7]);
    let yes = sandbox.rows(&["--row", "3", "--target", "yes", "--save", "none"]);
    let no = sandbox.rows(&["--row", "3", "--target", "no", "--save", "none"]);
    let value = |report: &Value| number(&report["features"][0]["value"]);
    assert!(
        (value(&yes[0]) + value(&no[0])).abs() < 1e-5,
        "the log-odds are each other's negative"
    );
    for method in [
        "gradient",
        "input-x-gradient",
        "shapley",
        "lime",
        "deeplift",
        "lrp",
        "occlusion",
    ] {
        let found = sandbox.rows(&["--row", "3", "--method", method, "--save", "none"]);
        assert_eq!(found[0]["recipe"]["method"], method);
        assert_eq!(
            found[0]["features"].as_array().unwrap().len(),
            4,
            "{method}"
        );
    }
}

/// A linear model's contributions are known, and a category's is one of them: whether its encoded
/// columns are taken away together or one by one, it counts once.
#[test]
fn methods_agree_on_a_linear_model() {
    let sandbox = Sandbox::with_credit();
    let by_name = |features: &Value, of: &dyn Fn(&Value) -> f64| -> Vec<(String, f64)> {
        let features = features.as_array().unwrap().iter();
        let mut found: Vec<(String, f64)> = features
            .map(|f| (f["name"].as_str().unwrap().to_owned(), of(f)))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    let assert_close = |got: &[(String, f64)], want: &[(String, f64)], what: &str| {
        for ((name, got), (_, want)) in got.iter().zip(want) {
            let off = (got - want).abs();
            assert!(
                off < 0.03 * want.abs() + 1e-3,
                "{what}: {name}: {got} {want}"
            );
        }
    };
    let row = |method: &str| {
        let found = sandbox.rows(&["--row", "3", "--method", method, "--save", "none"]);
        by_name(&found[0]["features"], &|f| number(&f["value"]))
    };
    let want = row("integrated-gradients");
    for method in [
        "deeplift",
        "shapley",
        "kernel-shap",
        "feature-ablation",
        "occlusion",
    ] {
        assert_close(&row(method), &want, method);
    }
    let whole = |method: &str| {
        let found = sandbox.importance(&["--method", method, "--save", "none"]);
        by_name(&found["features"], &|f| number(&f["magnitude"]["mean"]))
    };
    let want = whole("integrated-gradients");
    for method in ["shapley", "feature-ablation"] {
        assert_close(&whole(method), &want, method);
    }
}

/// Whatever is taken away together, the values add up to the score less the mean row's.
#[test]
fn groups_of_a_window_add_up() {
    let sandbox = Sandbox::with_prices();
    let sum = |more: &[&str]| {
        let start = [
            "explain",
            "--data",
            "prices.csv",
            "--model",
            "prices",
            "--device",
            "cpu",
            "--row",
            "30",
            "--json",
            "--save",
            "none",
        ];
        let report = sandbox.json(&[&start[..], more].concat());
        let features = report[0]["features"].as_array().unwrap().iter();
        let sum: f64 = features.map(|f| number(&f["value"])).sum();
        sum
    };
    let want = sum(&["--steps", "200"]);
    for features in [
        "auto",
        "\"positions\"",
        "\"channels\"",
        "{\"grid\":[3]}",
        "{\"grid\":[2,1]}",
    ] {
        let option = format!("features={features}");
        let got = sum(&["--method", "shapley", "--option", &option]);
        assert!(
            (got - want).abs() < 0.01 * want.abs().max(0.1),
            "{features}: {got} {want}"
        );
    }
}

#[test]
fn a_window_is_explained_over_time() {
    let sandbox = Sandbox::with_prices();
    let start = [
        "explain",
        "--data",
        "prices.csv",
        "--model",
        "prices",
        "--device",
        "cpu",
    ];
    let window = [
        "--window",
        "2020-01-05..2020-01-10",
        "--out",
        "out",
        "--save",
        "png,csv,json",
    ];
    let report = sandbox.json(&[&start[..], &window, &["--json"]].concat());
    let report = &report[0];
    assert_eq!(report["name"], "2020-01-05..2020-01-10");
    assert_eq!(report["steps"].as_array().unwrap().len(), 6);
    assert_eq!(report["target"], "mean of price t+1 to t+2");
    assert_eq!(report["outputs"].as_array().unwrap().len(), 2);
    let stem = "out/prices-2020-01-05--2020-01-10-integrated-gradients";
    let want = [".png", "-series.png", "-heat.png", ".csv", ".json"];
    assert_eq!(listed(report), want.map(|suffix| format!("{stem}{suffix}")));
    let table = String::from_utf8(sandbox.read(&format!("{stem}.csv"))).unwrap();
    assert!(
        table.starts_with("time,feature,value,contribution\n2020-01-05,"),
        "{table}"
    );
    let features = report["features"].as_array().unwrap().len();
    assert_eq!(table.lines().count(), 1 + 6 * features);

    let one = ["--row", "30", "--target", "t+2", "--json", "--save", "none"];
    let report = sandbox.json(&[&start[..], &one].concat());
    assert_eq!(report[0]["target"], "price t+2");
    assert_eq!(report[0]["rows"], serde_json::json!([25, 30]));
    let text = sandbox.succeeds(
        &[
            &start[..],
            &["--window", "2020-01..2020-02", "--save", "none"],
        ]
        .concat(),
    );
    assert!(
        text.contains("windows of 6 rows lie in 2020-01..2020-02; this is the last"),
        "{text}"
    );
    let mean = [
        "--row",
        "30",
        "--target",
        "mean:1..1",
        "--json",
        "--save",
        "none",
    ];
    assert_eq!(
        sandbox.json(&[&start[..], &mean].concat())[0]["target"],
        "price t+1"
    );

    let whole = [
        "importance",
        "--data",
        "prices.csv",
        "--model",
        "prices",
        "--device",
        "cpu",
    ];
    let report = sandbox.json(&[&whole[..], &["--json", "--out", "out"]].concat());
    assert_eq!(report["rows"], 85);
    assert_eq!(
        names(&report["steps"]),
        ["t-5", "t-4", "t-3", "t-2", "t-1", "t"]
    );
    std::fs::remove_dir_all(sandbox.path("out")).unwrap();
    let three = ["--window", "2020-01-05..2020-01-07", "--save", "none"];
    sandbox.refuses(
        1,
        &[&start[..], &three].concat(),
        &[
            "no window of 6 rows lies in",
            "the file's windows go from 2020-01-01 to 2020-04-06",
        ],
    );
    let rise = ["--method", "rise", "--samples", "8", "--save", "none"];
    sandbox.refuses(
        2,
        &[&whole[..], &rise].concat(),
        &["rise has one value for each step"],
    );
}

#[test]
fn importance_is_that_of_the_rows_however_they_are_batched() {
    let sandbox = Sandbox::with_credit();
    let none = ["--save", "none"];
    let whole = sandbox.importance(&none);
    assert_eq!(whole["rows"], 300);
    assert_eq!(whole["target"], "log-odds of yes");
    assert_eq!(names(&whole["features"])[..2], ["income", "town"]);
    let by_seven = sandbox.importance(&["--batch", "7", "--save", "none"]);
    let rows = sandbox.rows(&["--row", "1..300", "--target", "yes", "--save", "none"]);
    for (i, feature) in whole["features"].as_array().unwrap().iter().enumerate() {
        let mean = number(&feature["magnitude"]["mean"]);
        let other = number(&by_seven["features"][i]["magnitude"]["mean"]);
        assert!((mean - other).abs() <= 1e-5 * mean.abs(), "{mean} {other}");
        let of = |row: &Value| {
            let features = row["features"].as_array().unwrap();
            number(
                &features
                    .iter()
                    .find(|f| f["name"] == feature["name"])
                    .unwrap()["value"],
            )
        };
        let values: Vec<f64> = rows.iter().map(of).collect();
        let direct = values.iter().map(|v| v.abs()).sum::<f64>() / 300.0;
        assert!(
            (mean - direct).abs() <= 1e-5 * mean.abs(),
            "{mean} {direct}"
        );
        let interval = &feature["magnitude"]["interval"];
        assert!(number(&interval[0]) < mean && mean < number(&interval[1]));
    }
}

#[test]
fn importance_of_groups_and_of_the_first_rows() {
    let sandbox = Sandbox::with_credit();
    let args = [
        "--group-by",
        "town",
        "--rows",
        "90",
        "--out",
        "out",
        "--save",
        "png,csv,json",
    ];
    let report = sandbox.importance(&args);
    assert_eq!(report["rows"], 90);
    let groups = report["groups"].as_object().unwrap();
    let names: Vec<&String> = groups.keys().collect();
    assert_eq!(names, ["Lima", "Oslo", "Rome"]);
    assert!(groups.values().all(|group| group["rows"] == 30));
    let of = |features: &Value| {
        let features = features.as_array().unwrap();
        number(&features.iter().find(|f| f["name"] == "income").unwrap()["value"]["mean"])
    };
    let mean: f64 = groups
        .values()
        .map(|group| of(&group["features"]))
        .sum::<f64>()
        / 3.0;
    assert!((mean - of(&report["features"])).abs() < 1e-6);
    let stem = "out/rows-importance-integrated-gradients";
    let want = [
        ".png",
        "-beeswarm.png",
        "-lima.png",
        "-oslo.png",
        "-rome.png",
        ".csv",
        ".json",
    ];
    assert_eq!(
        listed(&report),
        want.map(|suffix| format!("{stem}{suffix}"))
    );
    assert!(dimensions(&sandbox, &format!("{stem}-beeswarm.png")).0 > 600);
    let table = String::from_utf8(sandbox.read(&format!("{stem}.csv"))).unwrap();
    assert_eq!(table.lines().count(), 1 + 4 + 3 * 4, "{table}");
    let start = [
        "importance",
        "--data",
        "rows.csv",
        "--model",
        "credit",
        "--device",
        "cpu",
    ];
    let text = sandbox.succeeds(&[&start[..], &["--group-by", "town", "--save", "none"]].concat());
    for part in ["300 rows", "rows/s", "mean |contribution|", " ± ", "Oslo"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() {
    let sandbox = Sandbox::with_credit();
    sandbox.scene("scene.png", 0);
    let data = [
        "explain", "--data", "rows.csv", "--model", "credit", "--out", "out",
    ];
    let with = |more: &[&'static str]| [&data[..], more].concat();
    sandbox.refuses(2, &with(&[]), &["say what to explain: --row N"]);
    sandbox.refuses(
        1,
        &with(&["--row", "301"]),
        &["rows.csv: has no row 301; its last is 300"],
    );
    sandbox.refuses(
        2,
        &with(&["--window", "1..2"]),
        &["--window is for models of series"],
    );
    sandbox.refuses(2, &with(&["--row", "0"]), &["no list of rows from 1"]);
    sandbox.refuses(
        2,
        &with(&["--row", "1", "--target", "maybe"]),
        &["the outputs of this model are no, yes"],
    );
    sandbox.refuses(2, &with(&["--row", "1", "--target", "7"]), &["7"]);
    sandbox.refuses(
        2,
        &with(&["--row", "1", "--target", "top:2"]),
        &["top:K is for images"],
    );
    sandbox.refuses(
        2,
        &with(&["--row", "1", "scene.png"]),
        &["cannot be used with"],
    );
    sandbox.refuses(
        1,
        &with(&["--row", "1", "--method", "grad-cam"]),
        &["no layer of the model has positions"],
    );
    sandbox.refuses(
        2,
        &["explain", "scene.png", "--model", "credit", "--out", "out"],
        &["credit is a model of rows, not of images", "--data FILE"],
    );
    let images = [
        &["explain", "scene.png", "--save", "csv", "--out", "out"][..],
        &DEMO,
    ]
    .concat();
    sandbox.refuses(2, &images, &["--save csv is for rows"]);
    let demo = [
        &[
            "explain", "--data", "rows.csv", "--row", "1", "--out", "out",
        ][..],
        &DEMO,
    ]
    .concat();
    sandbox.refuses(2, &demo, &["--data needs a model of rows", "demo"]);
    let none = [
        "explain", "--data", "rows.csv", "--row", "1", "--out", "out",
    ];
    sandbox.refuses(2, &none, &["give --model FOLDER"]);
    let labels = [&data[..], &["--row", "1", "--weights", "x.pth"]].concat();
    sandbox.refuses(2, &labels, &["--weights is for networks of images"]);
    let importance = [
        "importance",
        "--data",
        "rows.csv",
        "--model",
        "credit",
        "--out",
        "out",
    ];
    sandbox.refuses(
        2,
        &[&importance[..], &["--group-by", "twon"]].concat(),
        &["has no column \"twon\"; did you mean \"town\"?"],
    );
}

#[test]
fn bad_data_is_one_line_with_row_and_column() {
    let sandbox = Sandbox::with_credit();
    let with = |from: &str, to: &str| credit(30).replacen(from, to, 1);
    let line = |n: usize| credit(30).lines().nth(n).unwrap().to_owned();
    let text_in_number = credit(30).replacen(&line(5), "old,3000,Rome,0.1,yes", 1);
    let unknown = credit(30).replacen(&line(7), "40,3000,Paris,0.1,yes", 1);
    let empty = credit(30).replacen(&line(9), "40,,Rome,0.1,yes", 1);
    let short = credit(30).replacen(&line(11), "40,3000,Rome", 1);
    let cases = [
        (
            text_in_number,
            [
                "row 5 (line 6)",
                "column \"age\"",
                "\"old\" is not a number",
            ],
        ),
        (
            unknown,
            [
                "row 7 (line 8)",
                "column \"town\"",
                "\"Paris\" is not a category",
            ],
        ),
        (empty, ["row 9 (line 10)", "column \"income\"", "is empty"]),
        (
            short,
            ["row 11 (line 12)", "has 3 cells", "the header has 5"],
        ),
        (
            with("age,", "years,"),
            ["has no column \"age\"", "years", "income"],
        ),
    ];
    for (i, (content, parts)) in cases.iter().enumerate() {
        sandbox.write("bad.csv", content);
        let model = ["--model", "credit", "--device", "cpu", "--out", "out"];
        let code = if i == 4 { 2 } else { 1 };
        let explain = ["explain", "--data", "bad.csv", "--row", "30"];
        sandbox.refuses(code, &[&explain[..], &model].concat(), parts);
        let importance = ["importance", "--data", "bad.csv", "--save", "none"];
        sandbox.refuses(code, &[&importance[..], &model].concat(), parts);
    }
    // Other dialects are found out.
    sandbox.write("bad.csv", credit(30).replace(',', ";"));
    let args = [
        "explain", "--data", "bad.csv", "--row", "3", "--json", "--save", "none",
    ];
    let found = sandbox.json(&[&args[..], &["--model", "credit", "--device", "cpu"]].concat());
    assert_eq!(found[0]["features"].as_array().unwrap().len(), 4);
    let wrong = ["--delimiter", "comma", "--model", "credit", "--out", "out"];
    let args = ["explain", "--data", "bad.csv", "--row", "3"];
    sandbox.refuses(2, &[&args[..], &wrong].concat(), &["--delimiter semicolon"]);
}
