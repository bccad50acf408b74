//! The picture of the page in the documentation: `make screenshot`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::*;

/// A collect whose database tells of an hour with everything in it that the page can show.
struct Told {
    scratch: Scratch,
    listen: SocketAddr,
    _collect: Collector,
    _broker: Broker,
}

fn told() -> Result<Told> {
    let scratch = Scratch::new()?;
    let broker = Broker::start(scratch.path())?;
    let key = Key::make(scratch.path(), "collect.key")?;
    let listen = free_address()?;
    let option = format!("--listen={listen}");
    let mut collect = Collector::start(scratch.path(), &broker, scratch.path(), &key, &[&option])?;
    collect.process.terminate()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("shipped/page/data.py");
    let status = Command::new("python3")
        .arg(script)
        .arg(&collect.db)
        .status()?;
    ensure!(status.success(), "data.py: {status}");
    collect.begin()?;
    Ok(Told {
        scratch,
        listen,
        _collect: collect,
        _broker: broker,
    })
}

fn take(told: &Told, look: Look, place: PathBuf) -> Result<()> {
    let folder = told
        .scratch
        .path()
        .join(place.file_stem().context("a name")?);
    std::fs::create_dir(&folder)?;
    let browser = Browser::start(&folder, look)?;
    browser.open(&format!(
        "http://{}/#site=acme&vm=shop-frontend-1&range=1h",
        told.listen
    ))?;
    browser.wait(60, "all strips", "return document.querySelectorAll('#plot g.infra .curve').length >= 2 && document.querySelector('#plot .band.missing') && document.querySelector('#sealed code')")?;
    // The cursor stands in the rush, where the picture is most telling.
    browser.run("const box = document.querySelector('#chart').getBoundingClientRect(); document.querySelector('#chart').dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + box.width * 0.735, clientY: box.top + 40 }))")?;
    let picture = BASE64_STANDARD.decode(browser.picture()?)?;
    std::fs::write(&place, &picture)?;
    ensure!(
        picture.len() < 250_000,
        "{}: {} bytes",
        place.display(),
        picture.len()
    );
    Ok(())
}

#[test]
#[ignore = "writes docs/images/page.png; make screenshot"]
fn the_picture_in_the_documentation() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    std::fs::create_dir_all(&folder)?;
    let told = told()?;
    let look = Look {
        height: 900,
        ..Look::DESK
    };
    take(&told, look, folder.join("page.png"))?;
    // For a look at what else there is; not part of the documentation.
    if let Some(others) = std::env::var_os("VMKPI_PICTURES").map(PathBuf::from) {
        take(&told, Look { dark: true, ..look }, others.join("dark.png"))?;
        let narrow = Look {
            width: 400,
            height: 1700,
            ..look
        };
        take(&told, narrow, others.join("narrow.png"))?;
    }
    Ok(())
}

/// What the documentation shows is on the page still.
#[test]
fn everything_the_picture_shows_is_on_the_page() -> Result<()> {
    if !Browser::is_there()? {
        return Ok(());
    }
    let told = told()?;
    let look = Look {
        width: 400,
        ..Look::DESK
    };
    let browser = Browser::start(told.scratch.path(), look)?;
    browser.open(&format!(
        "http://{}/#site=acme&vm=shop-frontend-1&range=1h",
        told.listen
    ))?;
    for (what, selector) in [
        ("a gap", "#plot .band.gap"),
        ("a hole", "#plot .band.missing"),
        ("a migration", "#plot line.moved"),
        ("two residences", ".home.a + .home-name + .home.b"),
        ("what is sealed", "#plot g.sealed .bar"),
        ("a KPI", "#plot g.kpi .curve"),
        ("the machine", "#plot g.infra .curve"),
        ("the dead", "#sites .mark.dead"),
        ("who has left", "#sites .mark.left"),
    ] {
        browser.wait(
            30,
            what,
            &format!("return document.querySelector('{selector}')"),
        )?;
    }
    let wide = "return [document.documentElement.scrollWidth, innerWidth]";
    let found = browser.run(wide)?;
    ensure!(
        found[0].as_u64() <= found[1].as_u64(),
        "at 400 px it is wider than the window: {found}"
    );
    // A counter that begins anew at another host makes no spike.
    let highest = browser.wait(
        10,
        "the rate",
        "return [...document.querySelectorAll('#plot g[data-key*=cpu_time] .tick.y')].at(-1)?.textContent",
    )?;
    ensure!(
        highest == "4" || highest == "2" || highest == "3",
        "{highest}"
    );
    for (range, least) in [("5m", 200), ("6h", 50), ("24h", 20)] {
        browser.run(&format!(
            "document.querySelector('[data-range=\"{range}\"]').click()"
        ))?;
        let points = format!(
            "return location.hash.includes('range={range}') && (document.querySelector('#plot g.kpi .curve')?.getAttribute('d').length ?? 0) > {least}"
        );
        browser.wait(30, range, &points)?;
    }
    browser.run("document.querySelector('#pause').click()")?;
    browser.wait(
        10,
        "the pause",
        "return document.querySelector('#live').innerText === 'paused'",
    )?;
    let (errors, _) = browser.said()?;
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(())
}
