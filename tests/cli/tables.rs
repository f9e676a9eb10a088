//! CSV files that are wrong in every way, and models trained on those that are right.

use super::Sandbox;

/// 120 rows in which `paid` follows from `income`, with a category and a day.
fn loans() -> String {
    let mut text = String::from("day,income,home,noise,paid\n");
    for i in 0..120 {
        let (month, day) = (i / 28 + 1, i % 28 + 1);
        let (income, noise) = (i * 37 % 100, i * 61 % 83);
        let home = ["own", "rent", "other"][i % 3];
        let paid = if income > 50 { "yes" } else { "no" };
        text += &format!("2021-{month:02}-{day:02},{income},{home},{noise},{paid}\n");
    }
    text
}

/// Trains on `data.csv` with more arguments and must fail with these parts.
fn refused(code: i32, content: impl AsRef<[u8]>, args: &[&str], parts: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.write("data.csv", content);
    let start = ["train", "--data", "data.csv", "--out", "out"];
    sandbox.refuses(code, &[&start[..], args].concat(), parts);
    assert!(!sandbox.path("out").exists());
}

const PAID: [&str; 2] = ["--target", "paid"];

#[test]
fn files_that_are_no_tables() {
    let sandbox = Sandbox::new();
    let missing = [
        "train", "--data", "no.csv", "--out", "out", "--target", "paid",
    ];
    sandbox.refuses(1, &missing, &["no.csv: no such file"]);
    refused(1, "", &PAID, &["data.csv: is empty"]);
    refused(1, "\n \r\n\n", &PAID, &["data.csv: is empty"]);
    refused(1, "income,paid\n", &PAID, &["has a header and no rows"]);
    refused(1, "income,paid", &PAID, &["has a header and no rows"]);
    refused(
        1,
        "PK\x03\x04",
        &PAID,
        &["Excel workbook", "save it as CSV"],
    );
    refused(1, b"\x1f\x8b\x08\x00", &PAID, &["gzip"]);
    let utf16: Vec<u8> = loans().encode_utf16().flat_map(u16::to_le_bytes).collect();
    refused(1, utf16, &PAID, &["zero bytes", "--encoding utf-16le"]);
    let mut latin = loans().replace("rent", "lou\u{e9}").into_bytes();
    let at = latin.iter().position(|b| *b == 0xc3).unwrap();
    latin.splice(at..at + 2, [0xe9]);
    refused(
        1,
        latin,
        &PAID,
        &[
            "row 2 (line 3), column \"home\"",
            "byte 0xe9",
            "--encoding windows-1252",
        ],
    );
}

#[test]
fn headers_that_do_not_fit() {
    let parts = [
        "has no column \"piad\"; did you mean \"paid\"?",
        "day, income, home",
    ];
    refused(2, loans(), &["--target", "piad"], &parts);
    refused(
        2,
        loans(),
        &["--target", "paid", "--features", "income,age"],
        &["no column \"age\""],
    );
    refused(
        2,
        loans(),
        &["--target", "paid", "--drop", "nois"],
        &["did you mean \"noise\"?"],
    );
    refused(
        1,
        loans().replacen("noise", "income", 1),
        &PAID,
        &[
            "line 1",
            "columns 2 and 4 are both called \"income\"",
            "--no-header",
        ],
    );
    let short = loans().replacen("day,income,", "income,", 1);
    refused(
        1,
        short,
        &PAID,
        &["row 1 (line 2): has 5 cells, but the header has 4"],
    );
    let long = loans().replacen("paid\n", "paid,more\n", 1);
    refused(
        1,
        long,
        &PAID,
        &["row 1 (line 2): has 5 cells, but the header has 6"],
    );
    let headless = loans().split_once('\n').unwrap().1.to_owned();
    // Its first row has the same number twice.
    refused(1, headless, &PAID, &["line 1", "--no-header"]);
    refused(
        1,
        "1,2,3\n4,5,6\n",
        &["--target", "3"],
        &["line 1", "the header has numbers only", "--no-header"],
    );
    refused(
        2,
        loans().replace(',', ";"),
        &["--target", "paid", "--delimiter", "comma"],
        &[
            "one column with the delimiter comma, and 5 with semicolon",
            "--delimiter semicolon",
        ],
    );
}

#[test]
fn rows_that_do_not_fit() {
    let row = |number: usize, content: &str| {
        let mut lines: Vec<String> = loans().lines().map(String::from).collect();
        lines[number] = content.into();
        lines.join("\n")
    };
    refused(
        1,
        row(7, "2021-01-07,1,own,1"),
        &PAID,
        &["row 7 (line 8): has 4 cells"],
    );
    refused(
        1,
        row(9, "2021-01-09,1,own,1,yes,x"),
        &PAID,
        &["row 9 (line 10): has 6 cells, but the header has 5; quote cells with a comma"],
    );
    refused(
        1,
        row(9, "2021-01-09,\"1,own,1,yes"),
        &PAID,
        &["row 9 (line 10): a quote is opened"],
    );
    let income = ["row 3 (line 4), column \"income\": "];
    let cell = |text: &str| row(3, &format!("2021-01-03,{text},other,9,no"));
    refused(
        1,
        cell("much"),
        &PAID,
        &[income[0], "\"much\" is not a number"],
    );
    refused(
        1,
        cell("\"1,5\""),
        &PAID,
        &[income[0], "write decimals with a point"],
    );
    refused(1, cell("$5"), &PAID, &[income[0], "without units"]);
    refused(1, cell("inf"), &PAID, &[income[0], "inf is not finite"]);
    refused(
        1,
        cell(""),
        &PAID,
        &[income[0], "is empty; give --missing drop"],
    );
    refused(1, cell("NaN"), &PAID, &[income[0], "counts as empty"]);
    refused(
        1,
        row(3, "2021-01-03,1,other,9,"),
        &PAID,
        &["row 3 (line 4), column \"paid\": is empty"],
    );
    refused(
        1,
        row(3, "2021-01-03,1,other,9,"),
        &["--target", "paid", "--missing", "mean"],
        &["column \"paid\"", "a target is never filled in"],
    );
    let series = ["--target", "income", "--sequence", "5"];
    refused(
        1,
        row(3, "2021-01-01,1,other,9,no"),
        &series,
        &["row 3 (line 4), column \"day\": 2021-01-01 comes after 2021-01-02; sort the file"],
    );
    refused(
        1,
        row(3, "2021-01-02,1,other,9,no"),
        &series,
        &["comes twice"],
    );
}

#[test]
fn requests_that_make_no_sense() {
    let paid = |more: &[&str], parts: &[&str]| {
        refused(2, loans(), &[&PAID[..], more].concat(), parts);
    };
    paid(
        &["--task", "regression"],
        &["\"paid\" is not numeric", "--task classification"],
    );
    paid(&["--model", "lstm"], &["lstm is for series", "--sequence"]);
    paid(
        &["--model", "tree"],
        &["unknown model", "linear, mlp, lstm, gru, tcn, transformer"],
    );
    paid(&["--horizon", "3"], &["--sequence"]);
    paid(&["--features", "income,paid"], &["cannot be a feature too"]);
    paid(
        &["--features", "day"],
        &["holds times, which are no feature"],
    );
    paid(
        &["--validation", "0.6", "--test", "0.4"],
        &["too little to train on"],
    );
    paid(&["--rate", "0"], &["rate is 0"]);
    paid(&["--missing", "zero"], &["error, mean, drop"]);
    paid(&["--sequence", "5", "--horizon", "2,1"], &["must rise"]);
    paid(
        &["--sequence", "5", "--horizon", "1,2"],
        &["a classification has one horizon"],
    );
    paid(
        &["--sequence", "5", "--target-as", "return"],
        &["the return of a column is a number", "--task regression"],
    );
    refused(
        2,
        loans(),
        &[
            "--target",
            "income",
            "--sequence",
            "5",
            "--target-as",
            "direction",
            "--horizon",
            "1,2",
        ],
        &["a classification has one horizon"],
    );
    refused(
        1,
        loans(),
        &["--target", "paid", "--sequence", "90"],
        &[
            "data.csv: the 120 rows give",
            "windows of 90 rows",
            "at least 2 are needed",
        ],
    );
    let constant = loans().replace(",yes", ",no");
    refused(
        1,
        constant,
        &PAID,
        &["column \"paid\" has one class only, \"no\""],
    );

    // What is there and no model is not replaced.
    let sandbox = Sandbox::new();
    sandbox.write("data.csv", loans());
    sandbox.write("photos/cat.txt", "precious");
    let train = |out: &str, parts: &[&str]| {
        let args = [
            "train", "--data", "data.csv", "--target", "paid", "--out", out,
        ];
        sandbox.refuses(2, &args, parts);
    };
    train(
        "photos",
        &["photos: is a folder of something else than a model"],
    );
    train("data.csv", &["data.csv: is a file"]);
    assert_eq!(sandbox.read("photos/cat.txt"), b"precious");
}

/// However the same rows are written, the model is the same to the bit.
#[test]
fn every_dialect_gives_the_same_model() {
    // A category with an accent, and one with a delimiter and a line end in it.
    let plain = loans()
        .replace("rent", "lou\u{e9}")
        .replace("other", "\"a, b;\nc|d\"");
    let utf16 = |to_bytes: fn(u16) -> [u8; 2], mark: &str| -> Vec<u8> {
        let text = format!("{mark}{plain}");
        text.encode_utf16().flat_map(to_bytes).collect()
    };
    let latin: Vec<u8> = plain.chars().map(|c| c as u8).collect();
    // Commas that separate, outside of quotes.
    let separated = |by: &str| {
        let quoted = "\"a, b;\nc|d\"";
        plain
            .replace(quoted, "@")
            .replace(',', by)
            .replace('@', quoted)
    };
    let files: [(&str, Vec<u8>, &[&str]); 13] = [
        ("plain", plain.clone().into(), &[]),
        ("no last line end", plain.trim_end().into(), &[]),
        ("empty lines", plain.replace("yes\n", "yes\n\n").into(), &[]),
        ("a mark", format!("\u{feff}{plain}").into(), &[]),
        ("spaces around cells", separated(" , ").into(), &[]),
        ("semicolons", separated(";").into(), &[]),
        ("tabulators", separated("\t").into(), &[]),
        ("pipes", separated("|").into(), &["--delimiter", "pipe"]),
        ("UTF-16", utf16(u16::to_le_bytes, "\u{feff}"), &[]),
        (
            "UTF-16, big end first",
            utf16(u16::to_be_bytes, "\u{feff}"),
            &[],
        ),
        (
            "UTF-16 without a mark",
            utf16(u16::to_le_bytes, ""),
            &["--encoding", "utf-16le"],
        ),
        ("Latin-1", latin, &["--encoding", "windows-1252"]),
        (
            "numbers in quotes",
            plain.replace(",37,", ",\"37\",").into(),
            &[],
        ),
    ];
    let mut first = None;
    for (what, content, more) in files {
        let sandbox = Sandbox::new();
        sandbox.write("loans.csv", content);
        let train = [
            "train",
            "--data",
            "loans.csv",
            "--target",
            "paid",
            "--out",
            "loans",
            "--hidden",
            "4",
            "--epochs",
            "2",
        ];
        sandbox.succeeds(&[&train[..], more].concat());
        let weights = sandbox.read("loans/weights.safetensors");
        let explain = [
            "explain",
            "--data",
            "loans.csv",
            "--model",
            "loans",
            "--row",
            "3",
            "--json",
            "--save",
            "none",
            "--device",
            "cpu",
        ];
        let features = sandbox.json(&[&explain[..], more].concat())[0]["features"].to_string();
        let found = (weights, features);
        assert!(
            *first.get_or_insert_with(|| found.clone()) == found,
            "{what}"
        );
    }
    for end in ["\r\n", "\r"] {
        let (plain, other) = (Sandbox::new(), Sandbox::new());
        plain.write("loans.csv", loans());
        other.write("loans.csv", loans().replace('\n', end));
        let train = [
            "train",
            "--data",
            "loans.csv",
            "--target",
            "paid",
            "--out",
            "loans",
            "--epochs",
            "1",
        ];
        plain.succeeds(&train);
        other.succeeds(&train);
        let weights = "loans/weights.safetensors";
        assert!(plain.read(weights) == other.read(weights), "{end:?}");
    }
}

/// What looks like a number and is none is never taken for a category.
#[test]
fn amounts_are_refused() {
    let with = |amount: &dyn Fn(&str) -> String| {
        let mut lines = loans().lines().map(String::from).collect::<Vec<_>>();
        for line in &mut lines[1..] {
            let mut cells: Vec<String> = line.split(',').map(String::from).collect();
            cells[1] = amount(&cells[1]);
            *line = cells.join(",");
        }
        lines.join("\n")
    };
    let place = "row 1 (line 2), column \"income\": ";
    refused(
        1,
        with(&|n| format!("\"{n},50\"")),
        &PAID,
        &[
            place,
            "\"0,50\" is not a number; write decimals with a point",
        ],
    );
    refused(
        1,
        with(&|n| format!("\"1{n},000\"")),
        &PAID,
        &[
            place,
            "\"10,000\" is not a number; write it without units and separators",
        ],
    );
    for unit in ["$", "€"] {
        refused(
            1,
            with(&|n| format!("{unit}{n}")),
            &PAID,
            &[place, "without units"],
        );
    }
    refused(
        1,
        with(&|n| format!("{n} %")),
        &PAID,
        &[place, "without units"],
    );
    let codes = with(&|n| format!("\"{},5\"", n.len()));
    let sandbox = Sandbox::new();
    sandbox.write("data.csv", codes);
    let train = [
        "train",
        "--data",
        "data.csv",
        "--target",
        "paid",
        "--out",
        "out",
        "--epochs",
        "1",
        "--categorical",
        "income",
    ];
    sandbox.succeeds(&train);
}

/// Rows are named by their number, however many come before.
#[test]
fn a_million_rows() {
    let sandbox = Sandbox::new();
    let line = |i: usize| {
        let paid = if i * 37 % 100 > 50 { "yes" } else { "no" };
        format!("{},{paid}\n", i * 37 % 100)
    };
    let body: String = (0..1_000_000).map(line).collect();
    let few: String = (0..200).map(line).collect();
    sandbox.write("few.csv", format!("income,paid\n{few}"));
    sandbox.succeeds(&[
        "train", "--data", "few.csv", "--target", "paid", "--out", "model", "--epochs", "1",
    ]);
    sandbox.write("many.csv", format!("income,paid\n{body}"));
    let explain = [
        "explain", "--data", "many.csv", "--model", "model", "--device", "cpu", "--json", "--save",
        "none",
    ];
    let last = sandbox.json(&[&explain[..], &["--row", "1000000"]].concat());
    assert_eq!(last[0]["features"][0]["text"], "63");
    sandbox.write("bad.csv", format!("income,paid\n{body}much,no\n"));
    let place = "bad.csv: row 1000001 (line 1000002), column \"income\": \"much\"";
    let train = [
        "train", "--data", "bad.csv", "--target", "paid", "--out", "out",
    ];
    sandbox.refuses(1, &train, &[place]);
    let explain = [
        "explain", "--data", "bad.csv", "--model", "model", "--row", "1000001", "--out", "out",
    ];
    sandbox.refuses(1, &explain, &[place]);
}

#[test]
fn cells_of_any_size() {
    let huge = "x".repeat(1 << 20);
    let with = |cell: &str| loans().replacen(",own,", &format!(",{cell},"), 1);
    let sandbox = Sandbox::new();
    sandbox.write("data.csv", with(&huge));
    let train = [
        "train", "--data", "data.csv", "--target", "paid", "--out", "out", "--epochs", "1",
    ];
    sandbox.succeeds(&train);
    let longer = "x".repeat(17 << 20);
    refused(1, with(&longer), &PAID, &["line 2", "longer than 16 MiB"]);
    let number = loans().replacen(",0,own", &format!(",{huge},own"), 1);
    refused(
        1,
        number,
        &PAID,
        &["row 1 (line 2), column \"income\"", "is not a number"],
    );
}

#[test]
fn a_table_is_trained_on() {
    let sandbox = Sandbox::new();
    sandbox.write("loans.csv", loans());
    let train = [
        "train",
        "--data",
        "loans.csv",
        "--target",
        "paid",
        "--out",
        "loans",
        "--hidden",
        "8",
        "--epochs",
        "30",
        "--rate",
        "0.02",
        "--batch",
        "16",
    ];
    let text = sandbox.succeeds(&train);
    for part in [
        "mlp on loans.csv",
        "84 rows for training",
        "AUC",
        "wrote loans",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(
        sandbox.files("."),
        [
            "loans.csv",
            "loans/card.md",
            "loans/model.json",
            "loans/weights.safetensors"
        ]
    );
    let model: serde_json::Value =
        serde_json::from_slice(&sandbox.read("loans/model.json")).unwrap();
    assert_eq!(model["layout"]["classes"], serde_json::json!(["no", "yes"]));
    assert!(
        model["test"]["auc"].as_f64().unwrap() > 0.9,
        "{}",
        model["test"]
    );
    let card = String::from_utf8(sandbox.read("loans/card.md")).unwrap();
    assert!(
        card.contains("`saliency train --data loans.csv --target paid"),
        "{card}"
    );
    assert!(
        card.contains("| home | one of other, own, rent |"),
        "{card}"
    );

    // The same again gives the same weights, in place of the earlier ones.
    let weights = sandbox.read("loans/weights.safetensors");
    sandbox.succeeds(&train);
    assert_eq!(sandbox.read("loans/weights.safetensors"), weights);
    sandbox.succeeds(&[&train[..], &["--seed", "2"]].concat());
    assert_ne!(sandbox.read("loans/weights.safetensors"), weights);
}

#[test]
fn a_series_is_trained_on() {
    let sandbox = Sandbox::new();
    // Semicolons, Windows line ends, an empty cell, no header.
    let mut text = loans()
        .replace(',', ";")
        .replace('\n', "\r\n")
        .replacen(";own;", ";;", 1);
    text = text.split_once("\r\n").unwrap().1.to_owned();
    sandbox.write("series.csv", text);
    let model = sandbox.json(&[
        "train",
        "--data",
        "series.csv",
        "--no-header",
        "--target",
        "c2",
        "--sequence",
        "4",
        "--horizon",
        "1,3",
        "--target-as",
        "change",
        "--model",
        "gru",
        "--hidden",
        "4",
        "--epochs",
        "2",
        "--missing",
        "drop",
        "--out",
        "model",
        "--json",
    ]);
    assert_eq!(model["layout"]["window"]["time"], "c1");
    assert_eq!(model["layout"]["task"], "regression");
    assert_eq!(model["architecture"]["outputs"], 2);
    // Row 1 is left out; the parts end at rows 84, 102 and 120, windows and targets span 7.
    assert_eq!(
        model["training"]["samples"],
        serde_json::json!({
            "training": 77, "validation": 12, "test": 12,
        })
    );
    let notes = model["notes"].to_string();
    assert!(
        notes.contains("1 rows with an empty cell were left out"),
        "{notes}"
    );
    assert!(model["test"]["last_rmse"].as_f64().unwrap() > 0.0);
}
