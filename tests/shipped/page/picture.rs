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

/// Points at a moment, as a mouse does.
const POINT: &str = "
    const chart = document.querySelector('#chart');
    const box = chart.getBoundingClientRect();
    const place = { clientX: box.left + box.width * 0.735, clientY: box.top + 40 };
    chart.dispatchEvent(new PointerEvent('pointermove', place));";

fn take(told: &Told, look: Look, place: &Path) -> Result<()> {
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
    for strip in ["current_users", "cpu_time", "net_transmit"] {
        browser.shows(60, &format!("#plot g[data-key*={strip}] .curve"))?;
    }
    browser.shows(30, "#sealed code")?;
    // The cursor stands in the rush, where the picture is most telling.
    browser.run(POINT)?;
    let picture = BASE64_STANDARD.decode(browser.picture()?)?;
    std::fs::write(place, &picture)?;
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
    take(&told, look, &folder.join("page.png"))?;
    // For a look at what else there is; not part of the documentation.
    if let Some(others) = std::env::var_os("VMKPI_PICTURES").map(PathBuf::from) {
        take(&told, Look { dark: true, ..look }, &others.join("dark.png"))?;
        let narrow = Look {
            width: 400,
            height: 1700,
            ..look
        };
        take(&told, narrow, &others.join("narrow.png"))?;
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
    for selector in [
        "#plot .band.gap",
        "#plot .band.missing",
        "#plot line.moved",
        "#plot .home.a + .home-name + .home.b",
        "#plot g.sealed .bar",
        "#plot g.kpi .curve",
        "#plot g.infra .curve",
        "#sites .mark.dead",
        "#sites .mark.left",
    ] {
        browser.shows(30, selector)?;
    }
    let wide = "return [document.documentElement.scrollWidth, innerWidth]";
    let found = browser.run(wide)?;
    ensure!(
        found[0].as_u64() <= found[1].as_u64(),
        "at 400 px it is wider than the window: {found}"
    );
    // A counter that begins anew at another host makes no spike.
    let cpu = "return [...document.querySelectorAll('#plot g[data-key*=cpu_time] .tick.y')].at(-1)?.textContent";
    let highest = browser.wait(10, "the processors' scale", cpu)?;
    ensure!(highest == "2" || highest == "4", "{highest}");
    for range in ["5m", "6h", "24h"] {
        let click = format!("document.querySelector('[data-range=\"{range}\"]').click()");
        browser.run(&click)?;
        browser.shows(10, &format!("[data-range='{range}'][aria-pressed=true]"))?;
        browser.shows(30, "#plot g.kpi .curve")?;
    }
    let (errors, _) = browser.said()?;
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(())
}
