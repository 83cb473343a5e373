// Camera to display: the library's pipeline and a hand-written loop of raw system calls, in alternation in one run.
//
//     loop [--camera PATH] [--display PATH] [--size WxH] [--frames N] [--rounds N] [--count] [--json FILE]
//
// Both use the same number of the display's own buffers, the same camera at 60 frames a second, and the same way of
// committing. In the middle of each run the program counts system calls (with the kernel's tracepoint, for this
// process), the process's CPU time, and frames shown. Under tests/lab/run --icount CPU time is instructions, user and
// kernel together. With --count the program requires this and fails above the limit.
#include "call_counter.hpp"
#include "count.hpp"
#include "raw/camera_to_display.hpp"

#include <dmaflow/kms.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/v4l2.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Options {
  std::string camera = "/dev/video0";
  std::string display = "/dev/dri/card0";
  dmaflow::Size size{640, 480};
  std::uint64_t frames = 300;
  int rounds = 5;
  std::string json;
};

constexpr std::uint64_t warm_up = 60;  // frames
constexpr int buffers = 7;
constexpr double cpu_limit = 1.08;     // the library's instructions, divided by the loop's
constexpr double calls_limit = 1.005;  // and its system calls

/// The cost of one run, counted from the end of the warm-up.
struct Cost {
  double calls = 0;
  double cpu = 0;  // nanoseconds, or instructions
  double shown = 0;
};

double cpu_time() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

/// Runs to the end of the warm-up, then to the last frame, and returns the difference.
Cost cost_of(const bench::CallCounter& calls, const Options& options, const std::function<void(std::uint64_t)>& run_to,
             const std::function<std::uint64_t()>& shown) {
  run_to(warm_up);
  const auto shown_before = static_cast<double>(shown());
  const double calls_before = calls.now();
  const double cpu_before = cpu_time();
  run_to(warm_up + options.frames);
  const double cpu = cpu_time() - cpu_before;
  const double count = calls.now() - calls_before - 2;  // minus the two readings of the clocks
  const auto frames = static_cast<double>(options.frames);
  return {
      .calls = count / frames, .cpu = cpu / frames, .shown = (static_cast<double>(shown()) - shown_before) / frames};
}

Cost library(const bench::CallCounter& calls, const Options& options) {
  const auto camera = dmaflow::v4l2::Camera::open(options.camera).value();
  const auto card = dmaflow::kms::Device::open(options.display).value();
  dmaflow::kms::Plane* const screen = card->output().value()->plane().value();
  dmaflow::Pipeline pipeline;
  pipeline.connect(*camera, *screen).value();
  const auto plans = pipeline.prepare({.size = options.size,
                                       .formats = {dmaflow::formats::xrgb8888},
                                       .interval = dmaflow::Interval{1, 60},
                                       .allocator = "display",
                                       .buffers = buffers});
  if (!plans) bench::give_up(pipeline.refusal()->explain(dmaflow::Detail::all));
  pipeline.start().value();
  const auto& stream = pipeline.stats().streams.front();
  const auto give_up = dmaflow::Deadline::after(std::chrono::minutes(5));
  const Cost cost = cost_of(
      calls, options,
      [&](std::uint64_t frames) {
        while (stream.captured < frames) bench::require(pipeline.step(give_up).value(), "no frame came");
      },
      [&] { return stream.branches.front().delivered; });
  pipeline.stop(dmaflow::Deadline::after(std::chrono::seconds(1))).value();
  return cost;
}

Cost by_hand(const bench::CallCounter& calls, const Options& options) {
  raw::CameraToDisplay loop =
      raw::open(options.camera.c_str(), options.display.c_str(), options.size.width, options.size.height, buffers);
  const Cost cost =
      cost_of(calls, options, [&](std::uint64_t frames) { raw::loop(loop, frames); }, [&] { return loop.committed; });
  raw::close(loop);
  return cost;
}

/// One figure, of the library and of the loop.
bench::Count count_of(const char* unit, std::optional<double> limit, const std::vector<Cost>& ours,
                      const std::vector<Cost>& theirs, double Cost::* figure) {
  bench::Count count{.operation = "camera to display", .unit = unit, .limit = limit};
  for (const auto& [way, costs] : {std::pair{"dmaflow", ours}, std::pair{"raw loop", theirs}}) {
    std::vector<double> values;
    for (const Cost& cost : costs) values.push_back(cost.*figure);
    count.ways.push_back(bench::summary(way, std::move(values)));
  }
  return count;
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  std::string size = "640x480";
  bool count = false;
  CLI::App app("Camera to display: the library beside a hand-written loop.");
  app.add_option("--camera", options.camera, "default /dev/video0");
  app.add_option("--display", options.display, "default /dev/dri/card0");
  app.add_option("--size", size, "of the frames; the monitor needs a mode of this size (default 640x480)");
  app.add_option("--frames", options.frames, "counted in each run (default 300)")->check(CLI::PositiveNumber);
  app.add_option("--rounds", options.rounds, "of each (default 5)")->check(CLI::PositiveNumber);
  app.add_flag("--count", count, "instructions, in tests/lab/run --icount; fails above 1.08 times the loop's");
  app.add_option("--json", options.json, "a file for the figures");
  CLI11_PARSE(app, argc, argv);
  options.size = dmaflow::parse_size(size).value();
  if (count) bench::require_counting_clock();

  const bench::CallCounter calls;
  if (!calls) bench::give_up(calls.why());
  std::vector<Cost> ours;
  std::vector<Cost> theirs;
  for (int round = 0; round < options.rounds; ++round) {
    ours.push_back(library(calls, options));
    theirs.push_back(by_hand(calls, options));
  }
  const char* const unit = count ? "instructions" : "CPU ns";
  const auto cpu = count_of(unit, count ? std::optional(cpu_limit) : std::nullopt, ours, theirs, &Cost::cpu);
  const auto system_calls = count_of("system calls", calls_limit, ours, theirs, &Cost::calls);
  const auto shown = count_of("frames shown", {}, ours, theirs, &Cost::shown);
  std::printf("%-10s %12s %8s %14s %8s %8s\n", "a frame", "system calls", "spread", unit, "spread", "shown");
  const auto spread = [](const bench::Cost& cost) { return 100 * (cost.third - cost.first) / cost.median; };
  for (std::size_t way = 0; way < cpu.ways.size(); ++way) {
    std::printf("%-10s %12.3f %7.2f%% %14.0f %7.2f%% %8.3f\n", cpu.ways[way].way.c_str(), system_calls.ways[way].median,
                spread(system_calls.ways[way]), cpu.ways[way].median, spread(cpu.ways[way]), shown.ways[way].median);
  }
  const auto ratio = [](const bench::Count& figure) { return figure.ways[0].median / figure.ways[1].median; };
  const double more_calls = ratio(system_calls);
  const double more_cpu = ratio(cpu);
  std::printf("ours/its: %.4f system calls, %.4f %s\n", more_calls, more_cpu, unit);
  const bench::CountLog log{
      .program = "loop", .counted = "process", .by_ratio = true, .counts = {cpu, system_calls, shown}};
  log.write(options.json);
  return !count || (more_cpu <= cpu_limit && more_calls <= calls_limit) ? 0 : 1;
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::fprintf(stderr, "error: %s\n", failure.error().message().c_str());
  return 2;
}
