//! What the targets share: machines to plan for, and changes to JSON that leave it JSON.

use std::path::Path;

use ferrun::plan::cgroup::unit::{Manager, Place, Systemd};
use ferrun::plan::cgroup::{Hierarchy, Layout, Unified};
use ferrun::plan::host::Host;
use libfuzzer_sys::fuzzer_mutate;
use serde_json::{Value, json};

/// Each kind of machine and caller that a plan tells apart.
pub fn hosts() -> [Host; 4] {
    let root = Path::new("/sys/fs/cgroup");
    let names = ["cpu", "cpuset", "memory", "pids", "hugetlb", "rdma", "io"].map(str::to_owned);
    let of_1 = ["blkio", "devices", "freezer", "net_cls", "net_prio"].map(str::to_owned);
    let hierarchies = names
        .iter()
        .chain(&of_1)
        .map(|name| Hierarchy { mount: root.join(name), controllers: vec![name.clone()] });
    let version_1 = Layout::V1 { hierarchies: hierarchies.collect(), unified: None };
    let version_2 = Layout::V2(Unified { controllers: names.to_vec(), mount: root.into() });
    let systemd = Systemd {
        manager: Manager::System,
        places: vec![Place::Own("/run/systemd/private".into())],
        group: "/".into(),
        majors: Vec::new(),
    };
    let host = |cgroups| Host { cgroups, ..Host::default() };
    [
        host(version_1),
        host(version_2.clone()),
        Host { systemd: Some(systemd), ..host(version_2.clone()) },
        Host {
            uid: 1000,
            gid: 1000,
            own_group: Some("/user.slice/own.scope".to_owned()),
            ..host(version_2)
        },
    ]
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

/// Changes a document of JSON in one or a few places; bytes that are none are changed as
/// bytes, and one time in eight so is a document. For `fuzz_mutator!`.
pub fn change_json(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let random = &mut Random(seed.into());
    let document = serde_json::from_slice::<Value>(&data[..size]).ok();
    let Some(mut document) = document.filter(|_| random.below(8) > 0) else {
        return fuzzer_mutate(data, size, max_size);
    };
    for _ in 0..=random.below(3) {
        let others = document.clone();
        change(any_below(&mut document, random), &others, random);
    }
    let text = document.to_string();
    if text.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..text.len()].copy_from_slice(text.as_bytes());
    text.len()
}

fn children(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    }
}

/// A value of the document; each step down is as likely as to stay.
fn any_below<'a>(value: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let count = children(value).len();
    if count == 0 || random.below(6) == 0 {
        return value;
    }
    match children(value).into_iter().nth(random.below(count)) {
        Some(child) => any_below(child, random),
        None => unreachable!("there are {count} of them"),
    }
}

fn change(value: &mut Value, others: &Value, random: &mut Random) {
    const NUMBERS: [i128; 14] = [
        -1,
        0,
        1,
        2,
        7,
        255,
        4096,
        65_535,
        2_147_483_647,
        4_294_967_295,
        4_294_967_296,
        i64::MAX as i128,
        i64::MIN as i128,
        u64::MAX as i128,
    ];
    const TEXTS: [&str; 14] = [
        "",
        "/",
        ".",
        "..",
        "/..",
        "a",
        "a:b",
        "=",
        "A=",
        "\0",
        "é\n",
        "%",
        "-1",
        "/proc/self/fd/7",
    ];
    let number = |random: &mut Random| {
        let text = NUMBERS[random.below(NUMBERS.len())].to_string();
        serde_json::from_str(&text).unwrap_or_default()
    };
    match (random.below(6), &mut *value) {
        (0, _) => *value = any_below(&mut others.clone(), random).clone(),
        (1, Value::Object(map)) => {
            let key = map.keys().nth(random.below(map.len())).cloned();
            _ = key.and_then(|key| map.remove(&key));
        }
        (1, Value::Array(list)) if !list.is_empty() => _ = list.remove(random.below(list.len())),
        (2, Value::Array(list)) => list.push(any_below(&mut others.clone(), random).clone()),
        (2 | 3, Value::String(text)) => *text = changed(text),
        (2 | 3, Value::Number(_)) => *value = number(random),
        (4, _) => {
            let plain = [json!(null), json!(true), json!({}), json!([]), json!(1.5), json!(false)];
            *value = plain[random.below(plain.len())].clone();
        }
        (5, _) => *value = number(random),
        _ => *value = TEXTS[random.below(TEXTS.len())].into(),
    }
}

fn changed(text: &str) -> String {
    let (length, most) = (text.len(), text.len() + 64);
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(most, 0);
    let length = fuzzer_mutate(&mut bytes, length, most);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
