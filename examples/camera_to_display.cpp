// Shows a camera on a display without copying a byte: the camera writes into the memory that the display shows.
#include <dmaflow/dmaflow.hpp>

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

#include <unistd.h>

// Called once a second while frames move, so it must not allocate.
static void live_line(const dmaflow::Stats& stats) {
  static const char* const end = isatty(STDERR_FILENO) != 0 ? "\r" : "\n";
  static std::uint64_t before = 0;
  const dmaflow::StreamStats& stream = stats.streams.front();
  const dmaflow::BranchStats& screen = stream.branches.front();
  const auto ms = [&](double percent) { return static_cast<double>(screen.latency.percentile(percent).count()) / 1e6; };
  std::fprintf(stderr, "%3d fps   latency p50 %.1f ms, p99 %.1f ms   dropped %d   %s",
               static_cast<int>(screen.delivered - before), ms(50), ms(99),
               static_cast<int>(screen.dropped.total() + stream.lost), end);
  before = screen.delivered;
}

int main(int argc, char** argv) try {
  std::string camera_path, display_path, size, json;
  double seconds = 0;
  bool verbose = false;
  CLI::App app("Shows a camera on a display without copying a byte.");
  app.add_option("--camera", camera_path, "such as /dev/video0; the first there is, if not given");
  app.add_option("--display", display_path, "such as /dev/dri/card0; the first with a monitor, if not given");
  app.add_option("--size", size, "of the frames, such as 1280x720; the camera's choice, if not given");
  app.add_option("--seconds", seconds, "how long; until Ctrl-C, if not given")->check(CLI::NonNegativeNumber);
  app.add_option("--json", json, "a file for the statistics");
  app.add_flag("--verbose", verbose, "print every format and memory that was tried, and why it does not work");
  CLI11_PARSE(app, argc, argv);

  const dmaflow::Fd stop = dmaflow::stop_on_signals().value();
  const auto camera = dmaflow::v4l2::Camera::open(camera_path).value();
  const auto card = dmaflow::kms::Device::open(display_path).value();
  dmaflow::kms::Plane* const screen = card->output().value()->plane().value();

  // An allocator that belongs to neither the camera nor the display, if this machine has one. The plan says whose
  // memory is used, and why.
  const auto memory = dmaflow::open_system_memory();

  dmaflow::Pipeline pipeline;
  if (memory) pipeline.offer(**memory);
  pipeline.connect(*camera, *screen).value();
  // The pipeline reacts if the monitor is unplugged, and to VT switches if there are VTs.
  const auto vt = dmaflow::kms::VtSwitch::open(*card);
  if (vt) pipeline.watch(**vt);
  if (const auto hotplug = card->hotplug()) pipeline.watch(**hotplug);
  dmaflow::StreamRequest request;
  if (!size.empty()) request.size = dmaflow::parse_size(size).value();
  const auto detail = verbose ? dmaflow::Detail::all : dmaflow::Detail::brief;
  const auto plans = pipeline.prepare(request);
  if (!plans) {
    std::cerr << "error: " << pipeline.refusal()->explain(detail);
    return 1;
  }
  std::cout << plans->front().explain(detail) << std::flush;

  dmaflow::RunOptions options{.stop_fd = stop.get(), .progress = live_line};
  if (seconds > 0) options.duration = std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
  pipeline.run(options).value();
  if (!json.empty()) std::ofstream(json) << pipeline.stats().json() << '\n';
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
