//! Files as other programs write them: small excerpts in the shape of public data sets load with the right types, or are refused
//! with a reason. None of the data is copied.

use std::path::Path;
use std::process::Command;

use crate::harness::binary;

/// Runs `driftctl` on a directory. Returns whether it succeeded, and its output and messages.
fn driftctl(dir: &Path, args: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(binary("driftctl"));
    command.env_remove("DRIFTDB_WRITER").env_remove("DRIFTDB_READER");
    let output = command.arg("-d").arg(dir.join("data")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn ingest(dir: &Path, name: &str, bytes: &[u8], args: &[&str]) -> (bool, String, String) {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    driftctl(dir, &[&["ingest", "t", "--file", path.to_str().unwrap()], args].concat())
}

struct File {
    name: &'static str,
    text: &'static str,
    /// How the table is created.
    key: &'static [&'static str],
    /// A part of the note about the types of the columns; empty for JSON.
    types: &'static str,
    /// A question, and its answer.
    question: &'static str,
    answer: &'static str,
}

const FILES: &[File] = &[
    // A JSON array of objects with nulls, names with spaces, and no key.
    File {
        name: "penguins.json",
        text: r#"[
  {"Species": "Adelie", "Island": "Biscoe", "Beak Length (mm)": 40.5, "Flipper Length (mm)": 180, "Body Mass (g)": 3700, "Sex": "MALE"},
  {"Species": "Adelie", "Island": "Biscoe", "Beak Length (mm)": null, "Flipper Length (mm)": null, "Body Mass (g)": null, "Sex": null},
  {"Species": "Gentoo", "Island": "Dream", "Beak Length (mm)": 46, "Flipper Length (mm)": 215, "Body Mass (g)": 5100, "Sex": "."}
]"#,
        key: &["--create", "--pk", "id", "--auto"],
        types: "",
        question: "SELECT Species, `Beak Length (mm)` FROM t WHERE `Flipper Length (mm)` > 179 ORDER BY `Body Mass (g)`",
        answer: "{\"Species\":\"Adelie\",\"Beak Length (mm)\":40.5}\n{\"Species\":\"Gentoo\",\"Beak Length (mm)\":46}\n",
    },
    // Two columns together are the key. Dates in words stay text.
    File {
        name: "stocks.csv",
        text: "symbol,date,price\nAAA,Jan 1 2001,39.81\nAAA,Feb 1 2001,36.3\nBBB,Jan 1 2001,107\n",
        key: &["--create", "--pk", "symbol,date"],
        types: "column types: price decimal",
        question: "SELECT date, price FROM t WHERE symbol = \"AAA\"",
        answer: "{\"date\":\"Feb 1 2001\",\"price\":36.3}\n{\"date\":\"Jan 1 2001\",\"price\":39.81}\n",
    },
    File {
        name: "sp500.csv",
        text: "date,price\nJan 1 2001,1390.5\nFeb 1 2001,1360\n",
        key: &["--create", "--pk", "date"],
        types: "price decimal",
        question: "SELECT SUM(price) AS total FROM t",
        answer: "{\"total\":2750.5}\n",
    },
    // Numbers without a digit before the point.
    File {
        name: "unemployment.tsv",
        text: "id\trate\n1002\t.097\n1001\t.091\n1005\t.1\n",
        key: &["--create", "--pk", "id", "--int-key"],
        types: "rate decimal",
        question: "SELECT * FROM t WHERE rate > 0.095",
        answer: "{\"id\":1002,\"rate\":0.097}\n{\"id\":1005,\"rate\":0.1}\n",
    },
    // Codes with leading zeros are text, as a key and as a column.
    File {
        name: "zipcodes.csv",
        text: "zip_code,latitude,longitude,city,fips\n00599,40.92,-72.63,Smalltown,036\n99999,64,-147.25,Elsewhere,002\n",
        key: &["--create", "--pk", "zip_code"],
        types: "latitude decimal, longitude decimal, city text, fips text",
        question: "SELECT zip_code, fips FROM t WHERE latitude < 50",
        answer: "{\"zip_code\":\"00599\",\"fips\":\"036\"}\n",
    },
    File {
        name: "weather.csv",
        text: "date,precipitation,temp_max,wind,weather\r\n2012-01-01,0.0,12.8,4.7,drizzle\r\n2012-01-02,10.9,-10.6,4.5,rain\r\n",
        key: &["--create", "--pk", "id", "--auto"],
        types: "date text, precipitation decimal, temp_max decimal, wind decimal, weather text",
        question: "SELECT date FROM t WHERE temp_max < 0",
        answer: "{\"date\":\"2012-01-02\"}\n",
    },
    // Text with commas, quotes and empty cells; an id that only looks like a number of things.
    File {
        name: "species.csv",
        text: "item_id,common_name,scientific_name,habitat_yr,percent\n\"58fa-01\",\"Frog, \"\"green\"\"\",Rana viridis,2001,.25\n58fa-02,,Bufo bufo,,\n",
        key: &["--create", "--pk", "item_id"],
        types: "common_name text, scientific_name text, habitat_yr int, percent decimal",
        question: "SELECT * FROM t",
        answer: "{\"item_id\":\"58fa-01\",\"common_name\":\"Frog, \\\"green\\\"\",\"scientific_name\":\"Rana viridis\",\"habitat_yr\":2001,\"percent\":0.25}\n{\"item_id\":\"58fa-02\",\"common_name\":\"\",\"scientific_name\":\"Bufo bufo\",\"habitat_yr\":null,\"percent\":null}\n",
    },
    // Nested objects and arrays, one array over many lines.
    File {
        name: "countries.json",
        text: "[\n\t{\n\t\t\"name\": {\"common\": \"Ruritania\", \"native\": {\"rur\": {\"official\": \"Řuritania\"}}},\n\t\t\"cca3\": \"RUR\",\n\t\t\"latlng\": [12.5, -69.96666666],\n\t\t\"borders\": [],\n\t\t\"area\": 180\n\t},\n\t{\n\t\t\"name\": {\"common\": \"Graustark\", \"native\": {}},\n\t\t\"cca3\": \"GRA\",\n\t\t\"latlng\": [33, 65],\n\t\t\"borders\": [\"RUR\"],\n\t\t\"area\": 2.02\n\t}\n]\n",
        key: &["--create", "--pk", "cca3"],
        types: "",
        question: "SELECT name.common FROM t WHERE borders CONTAINS \"RUR\"",
        answer: "{\"name.common\":\"Graustark\"}\n",
    },
    // A byte order mark, semicolons, and a name that needs backticks.
    File {
        name: "airports.csv",
        text: "\u{feff}iata;name;\"lat deg\"\nAAX;\"Field; north\";31.95\nAAY;Strip;-22\n",
        key: &["--create", "--pk", "iata", "--delimiter", ";"],
        types: "name text, lat deg decimal",
        question: "SELECT name FROM t WHERE `lat deg` < 0",
        answer: "{\"name\":\"Strip\"}\n",
    },
    // JSON Lines with rows of different shapes, and a boolean.
    File {
        name: "events.ndjson",
        text: "{\"seq\":1,\"day\":\"mon\",\"ok\":true}\n{\"seq\":1,\"day\":\"tue\",\"ok\":false,\"tags\":[\"x\"]}\n",
        key: &["--create", "--pk", "day,seq INT"],
        types: "",
        question: "SELECT _key FROM t WHERE ok = false",
        answer: "{\"_key\":[\"tue\",1]}\n",
    },
    // As R writes a value that is not known, in columns of numbers and of text.
    File {
        name: "measures.csv",
        text: "species,bill_length_mm,body_mass_g,sex,year\nAdelie,39.1,3750,male,2007\nAdelie,NA,NA,NA,2007\nGentoo,46,5100,female,2008\n",
        key: &["--create", "--pk", "id", "--auto", "--null", "NA"],
        types: "species text, bill_length_mm decimal, body_mass_g int, sex text, year int",
        question: "SELECT COUNT(*) AS c, COUNT(body_mass_g) AS known, AVG(bill_length_mm) AS mean FROM t WHERE sex IS NULL OR bill_length_mm > 40",
        answer: "{\"c\":2,\"known\":1,\"mean\":46.0}\n",
    },
    // Without that option they are text, which a note says of all such columns at once.
    File {
        name: "planes.csv",
        text: "tailnum,year,seats,speed\nN1,2004,55,NA\nN2,NA,182,90\n",
        key: &["--create", "--pk", "tailnum"],
        types: "columns \"year\" and \"speed\" are text, because besides numbers they have cells with \"NA\"; --null 'NA'",
        question: "SELECT speed FROM t WHERE seats > 100",
        answer: "{\"speed\":\"90\"}\n",
    },
    // Every text in quotes, and no number.
    File {
        name: "fields.csv",
        text: "\"icao\",\"name\",\"elevation\",\"lat\",\"tz\"\n\"00AA\",\"Ranch \"\"A\"\"\",3435,38.704022,\"America/Chicago\"\n\"00AK\",\"Strip, old\",-1.5,59.947733,\"\"\n",
        key: &["--create", "--pk", "icao"],
        types: "name text, elevation decimal, lat decimal, tz text",
        question: "SELECT name, tz FROM t WHERE elevation < 0",
        answer: "{\"name\":\"Strip, old\",\"tz\":\"\"}\n",
    },
    // A single object with the rows inside: one row, with a note.
    File {
        name: "response.json",
        text: "{\"status\": \"ok\", \"data\": [{\"id\": 1}, {\"id\": 2}]}\n",
        key: &["--create", "--pk", "id", "--auto"],
        types: "the file is a single JSON object, which is loaded as one row; if its rows are in \"data\"",
        question: "SELECT data FROM t",
        answer: "{\"data\":[{\"id\":1},{\"id\":2}]}\n",
    },
];

#[test]
fn files_in_the_shape_of_public_data_sets_load_with_the_right_types() {
    for File { name, text, key, types, question, answer } in FILES {
        let dir = tempfile::tempdir().unwrap();
        let (is_ok, loaded, notes) = ingest(dir.path(), name, text.as_bytes(), key);
        assert!(is_ok && notes.contains(types), "{name}: {notes}");
        assert!(loaded.contains("\"events\":"), "{name}: {loaded}");
        let (is_ok, found, notes) = driftctl(dir.path(), &["sql", "-o", "jsonl", "-e", question]);
        assert!(is_ok, "{name}: {notes}");
        assert_eq!(found, *answer, "{name}");
        // The same command finds that nothing is left to load, also if the writer made the keys.
        let (is_ok, again, notes) = ingest_again(dir.path(), name, key);
        assert!(is_ok && again.contains("\"events\":0"), "{name}: {again}{notes}");
    }
}

/// Repeats a load of the file as it is.
fn ingest_again(dir: &Path, name: &str, args: &[&str]) -> (bool, String, String) {
    driftctl(dir, &[&["ingest", "t", "--file", dir.join(name).to_str().unwrap()], args].concat())
}

#[test]
fn what_cannot_be_loaded_is_refused_with_a_reason() {
    let auto: &[&str] = &["--create", "--pk", "id", "--auto"];
    let cases: &[(&str, &[u8], &[&str], &str)] = &[
        ("keyless.csv", b"date,price\nJan,1\n", &["--create", "--pk", "id"], "--create --pk FIELD --auto"),
        (
            "half.csv",
            b"symbol,price\nA,1\n",
            &["--create", "--pk", "symbol,date"],
            "a part of the table's primary key",
        ),
        ("twice.csv", b"symbol,date\nA,1\nA,1\n", &["--create", "--pk", "symbol,date"], "the row exists"),
        ("empty.csv", b"symbol,date,n\nA,,1\n", &["--create", "--pk", "symbol,date"], "empty"),
        (
            "words.csv",
            b"symbol,n\nA,one\n",
            &["--create", "--pk", "symbol,n INT"],
            "must be INT, but is a string",
        ),
        ("index.csv", b",a,b\n0,1,2\n", auto, "field 1 of the header has no name"),
        (
            "map.geojson",
            b"{\n  \"type\": \"FeatureCollection\",\n  \"features\": []\n}\n",
            auto,
            "one JSON object over several lines",
        ),
        ("latin.csv", b"name,n\nJos\xe9,1\n", auto, "looks like Latin-1"),
        (
            "twins.csv",
            b"id,n,n\n1,2,3\n",
            &["--create", "--pk", "id"],
            "field \"n\" appears twice in the header",
        ),
        ("wide.csv", b"\xff\xfei\0d\0\n\0", &["--create", "--pk", "id"], "UTF-16"),
        ("flights.csv.zip", b"PK\x03\x04\x14\0", auto, "it is a zip file: unpack it first"),
        ("nan.jsonl", b"{\"id\": \"a\", \"n\": NaN}\n", &["--create", "--pk", "id"], "NaN is not JSON"),
        (
            "map.json",
            b"{\n  \"text/x\": {\"source\": \"iana\"},\n  \"text/y\": {}\n}\n",
            auto,
            "jq -c '.[]' FILE` if each of its fields is a row",
        ),
        ("upsert.csv", b"a,b\n1,2\n", &["--create", "--pk", "id", "--auto", "--upsert"], "--upsert"),
        ("int.csv", b"a,b\n1,2\n", &["--create", "--pk", "id", "--auto", "--int-key"], "--int-key"),
        (
            "pair.csv",
            b"a,b\n1,2\n",
            &["--create", "--pk", "a,b", "--auto"],
            "the keys that the writer makes are STRING",
        ),
    ];
    for (name, bytes, args, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (is_ok, _, stderr) = ingest(dir.path(), name, bytes, args);
        assert!(!is_ok && stderr.contains(expected), "{name}: {stderr}");
    }
    // A table that exists keeps its kind of keys.
    let dir = tempfile::tempdir().unwrap();
    assert!(driftctl(dir.path(), &["sql", "-e", "CREATE TABLE t (pk=id)"]).0);
    let (is_ok, _, stderr) = ingest(dir.path(), "rows.csv", b"a,b\n1,2\n", auto);
    assert!(!is_ok && stderr.contains("the writer does not make its keys"), "{stderr}");
}
