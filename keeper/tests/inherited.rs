//! Descriptors that a program is started with, on the real kernel. Needs root, like the keeper.

mod support;

use std::fs;

use serde_json::json;
use support::*;

#[test]
fn a_program_finds_each_descriptor_on_its_number_and_no_other() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("inherited");
    let files = fresh_dir("inherited-files");
    let file = files.join("file");
    fs::write(&file, "content").unwrap();
    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    let dir = instance["dir"].as_str().unwrap().to_string();
    let fifo = format!("{dir}/fifo");
    let id = instance["idBase"].as_u64().unwrap() + 5;
    let note = files.join("note");
    let script = format!(
        "{{ head -c 5 <&3; cat <&4; cat <&5; echo changed >&6; ls /proc/self/fd | grep -c ^.$; stat -c %u {fifo}
            if echo x 2>/dev/null >/proc/self/fd/5; then echo written; fi; }} > {}",
        note.display()
    );
    let steps = json!([
        {"op": "fifo", "path": fifo, "mode": 0o600, "uid": id, "gid": id},
        {"op": "run", "argv": ["/bin/sh", "-c", script], "timeoutMs": 5000, "fds": [
            {"fd": 3, "from": "fifo", "path": fifo, "access": "both", "content": "order"},
            {"fd": 4, "from": "file", "path": file},
            {"fd": 5, "from": "sealed", "path": file, "keep": true},
            {"fd": 6, "from": "copy", "path": file, "maxBytes": 100},
        ]},
    ]);
    keeper.acquire(&instance, steps).unwrap();
    // Standard streams, the four, and the directory that ls reads; higher numbers are what this test inherits itself.
    assert_eq!(fs::read_to_string(&note).unwrap(), format!("ordercontentcontent8\n{id}\n"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "content");
    assert_eq!(fs::read_dir(&*files).unwrap().count(), 2);

    for bad in [
        json!({"fd": 3, "from": "copy", "path": file, "maxBytes": 1}),
        json!({"fd": 3, "from": "file", "path": files.join("none")}),
        json!({"fd": 3, "from": "fifo", "path": file, "access": "both"}),
    ] {
        let other = keeper.reserve();
        let steps = json!([{"op": "run", "argv": ["/bin/true"], "timeoutMs": 5000, "fds": [bad]}]);
        assert!(keeper.acquire(&other, steps).is_err(), "{bad} was accepted");
    }
    assert!(keeper.end());
}
