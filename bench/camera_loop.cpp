// One way of showing a camera on a display, as a separate program that bench/compare measures from outside.
//
//     camera_loop dmaflow|raw|copy [--camera PATH] [--display PATH] [--size WxH] [--rate N] [--buffers N]
//
// raw and copy are the hand-written loops of raw/; dmaflow is the library with the same number of the display's
// buffers. Runs until SIGINT.
#include "raw/copy_to_display.hpp"

#include <dmaflow/kms.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/stop.hpp>
#include <dmaflow/v4l2.hpp>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>

namespace {

struct Options {
  std::string way;
  std::string camera = "/dev/video0";
  std::string display = "/dev/dri/card0";
  dmaflow::Size size{640, 480};
  std::uint32_t rate = 60;  // frames a second
  int buffers = 7;
};

constexpr std::uint64_t for_ever = std::numeric_limits<std::uint64_t>::max();

int by_library(const Options& options) {
  const dmaflow::Fd stop = dmaflow::stop_on_signals().value();
  const auto camera = dmaflow::v4l2::Camera::open(options.camera).value();
  const auto card = dmaflow::kms::Device::open(options.display).value();
  dmaflow::Pipeline pipeline;
  pipeline.connect(*camera, *card->output().value()->plane().value()).value();
  const auto plans = pipeline.prepare({.size = options.size,
                                       .formats = {dmaflow::formats::xrgb8888},
                                       .interval = dmaflow::Interval{1, options.rate},
                                       .allocator = "display",
                                       .buffers = static_cast<std::uint32_t>(options.buffers)});
  if (!plans) {
    std::fprintf(stderr, "error: %s", pipeline.refusal()->explain(dmaflow::Detail::all).c_str());
    return 1;
  }
  pipeline.run({.stop_fd = stop.get()}).value();
  return 0;
}

int run(const Options& options) {
  if (options.way == "dmaflow") return by_library(options);
  const char* const camera = options.camera.c_str();
  const char* const display = options.display.c_str();
  const auto [width, height] = options.size;
  if (options.way == "raw") {
    auto loop = raw::open(camera, display, width, height, options.buffers, options.rate);
    raw::loop(loop, for_ever);
  } else {
    auto loop = raw::open_copying(camera, display, width, height, options.buffers, options.rate);
    raw::loop(loop, for_ever);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  std::string size = "640x480";
  CLI::App app("One way of showing a camera on a display, to be measured from outside.");
  app.add_option("way", options.way)->required()->check(CLI::IsMember({"dmaflow", "raw", "copy"}));
  app.add_option("--camera", options.camera, "default /dev/video0");
  app.add_option("--display", options.display, "default /dev/dri/card0");
  app.add_option("--size", size, "of the frames; the monitor needs a mode of this size (default 640x480)");
  app.add_option("--rate", options.rate, "frames a second (default 60)")->check(CLI::PositiveNumber);
  app.add_option("--buffers", options.buffers, "default 7; of copy: the camera's")
      ->check(CLI::Range(2, raw::most_buffers));
  CLI11_PARSE(app, argc, argv);
  options.size = dmaflow::parse_size(size).value();
  return run(options);
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::fprintf(stderr, "error: %s\n", failure.error().message().c_str());
  return 1;
}
