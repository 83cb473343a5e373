// Shows a YUV camera on an RGB screen: the GPU converts, scales and draws a picture on top, and the CPU copies no byte.
// The GPU reads the camera's memory and writes the screen's memory, and fences keep the order.
#include <dmaflow/dmaflow.hpp>
#include <dmaflow/vulkan_convert.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <string>

#include <unistd.h>

namespace {

// The formats requested from a camera: the usual ones first, those that need no colour conversion last.
const std::vector<dmaflow::PixelFormat> camera_formats = {
    dmaflow::formats::yuyv,   dmaflow::formats::uyvy,   dmaflow::formats::nv12, dmaflow::formats::nv21,
    dmaflow::formats::nv16,   dmaflow::formats::yuv420, dmaflow::formats::p010, dmaflow::formats::xrgb8888,
    dmaflow::formats::rgb565, dmaflow::formats::r8};

// Called once a second while frames move, so it must not allocate.
void live_line(const dmaflow::Stats& stats) {
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

// The overlay: the name in white on a half-transparent background, in the lower left corner.
dmaflow::vulkan::Picture name_plate(dmaflow::Size screen) {
  constexpr std::string_view art[] = {
      "                                                ", "     #                   ##  ##                 ",
      "     #                  #     #                 ", "  ####  ##  #    ###   ####   #    ###   #   #  ",
      " #   #  # ## #      #   #     #   #   #  #   #  ", " #   #  # #  #   ####   #     #   #   #  # # #  ",
      " #   #  # #  #  #   #   #     #   #   #  # # #  ", "  ####  # #  #   ####   #    ###   ###    # #   ",
      "                                                ",
  };
  const std::uint32_t scale = std::max(1U, screen.width / 320);
  dmaflow::vulkan::Picture plate;
  plate.size = {static_cast<std::uint32_t>(art[0].size()) * scale, static_cast<std::uint32_t>(std::size(art)) * scale};
  plate.x = static_cast<std::int32_t>(4 * scale);
  plate.y = static_cast<std::int32_t>(screen.height) - static_cast<std::int32_t>(plate.size.height + 4 * scale);
  for (std::uint32_t y = 0; y < plate.size.height; ++y) {
    for (std::uint32_t x = 0; x < plate.size.width; ++x) {
      const bool is_ink = art[y / scale][x / scale] == '#';
      const std::uint8_t shade = is_ink ? 255 : 0;
      plate.rgba.insert(plate.rgba.end(), {shade, shade, shade, std::uint8_t(is_ink ? 255 : 128)});
    }
  }
  return plate;
}

dmaflow::Size preferred_size(const dmaflow::kms::Output& output) {
  for (const auto& mode : output.modes()) {
    if (mode.is_preferred) return mode.size;
  }
  return output.modes().empty() ? dmaflow::Size{1280, 720} : output.modes().front().size;
}

nlohmann::json times(const dmaflow::Histogram& histogram) {
  const auto ms = [&](double percent) { return static_cast<double>(histogram.percentile(percent).count()) / 1e6; };
  return {{"p50", ms(50)}, {"p99", ms(99)}, {"count", histogram.count()}};
}

// The pipeline's statistics and those of the GPU's stage.
nlohmann::json statistics(const dmaflow::Pipeline& pipeline, const dmaflow::vulkan::Device& gpu,
                          const dmaflow::vulkan::Convert& convert) {
  auto stats = nlohmann::json::parse(pipeline.stats().json());
  stats["gpu"] = {{"name", gpu.name()},
                  {"is_software", gpu.is_software()},
                  {"waited_ms", times(convert.waited())},
                  {"turnaround_ms", times(convert.turnaround())},
                  {"gpu_time_ms", times(convert.gpu_time())}};
  return stats;
}

}  // namespace

int main(int argc, char** argv) try {
  using dmaflow::vulkan::Fit;
  using dmaflow::vulkan::Rotation;
  std::string camera_path, display_path, size, screen_size, json;
  dmaflow::vulkan::CreateOptions wanted;
  dmaflow::vulkan::ConvertOptions options;
  double seconds = 0;
  bool verbose = false;
  bool no_overlay = false;
  CLI::App app("Shows a camera on a display by way of the GPU: any YUV to RGB, scaled, turned, with a picture on top.");
  app.add_option("--camera", camera_path, "such as /dev/video0; the first there is, if not given");
  app.add_option("--display", display_path, "such as /dev/dri/card0; the first with a monitor, if not given");
  app.add_option("--gpu", wanted.name, "a part of its name; the first that can, real ones first, if not given");
  app.add_option("--size", size, "of the camera's frames, such as 640x480; the camera's choice, if not given");
  app.add_option("--screen", screen_size, "of the picture shown; the monitor's preferred mode, if not given");
  app.add_option("--rotate", options.rotation, "degrees counter-clockwise: 0, 90, 180 or 270")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Rotation>{
          {"0", Rotation::none}, {"90", Rotation::by_90}, {"180", Rotation::by_180}, {"270", Rotation::by_270}}));
  app.add_option("--fit", options.fit, "contain (all of the picture, black beside it) or stretch")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, Fit>{{"contain", Fit::contain}, {"stretch", Fit::stretch}}));
  app.add_flag("--no-overlay", no_overlay, "without the name in the corner");
  app.add_flag("--validation", wanted.validation, "with Vulkan's validation layer, whose messages go to stderr");
  app.add_option("--seconds", seconds, "how long; until Ctrl-C, if not given")->check(CLI::NonNegativeNumber);
  app.add_option("--json", json, "a file for the statistics");
  app.add_flag("--verbose", verbose, "print every format and memory that was tried, and why it does not work");
  CLI11_PARSE(app, argc, argv);

  const dmaflow::Fd stop = dmaflow::stop_on_signals().value();
  const auto camera = dmaflow::v4l2::Camera::open(camera_path).value();
  const auto card = dmaflow::kms::Device::open(display_path).value();
  dmaflow::kms::Output* const output = card->output().value();
  dmaflow::kms::Plane* const screen = output->plane().value();

  const auto gpu = dmaflow::vulkan::Device::create(wanted).value();
  options.size = screen_size.empty() ? preferred_size(*output) : dmaflow::parse_size(screen_size).value();
  if (!no_overlay) options.overlay = name_plate(*options.size);
  const auto convert = dmaflow::vulkan::Convert::create(*gpu, options).value();

  // An allocator that belongs to none of the devices, if this machine has one.
  const auto memory = dmaflow::open_system_memory();

  dmaflow::Pipeline pipeline;
  if (memory) pipeline.offer(**memory);
  pipeline.connect(*camera, *screen, "screen", {.stages = {convert.get()}}).value();
  const auto vt = dmaflow::kms::VtSwitch::open(*card);
  if (vt) pipeline.watch(**vt);
  if (const auto hotplug = card->hotplug()) pipeline.watch(**hotplug);
  dmaflow::StreamRequest request{.formats = camera_formats};
  if (!size.empty()) request.size = dmaflow::parse_size(size).value();
  const auto detail = verbose ? dmaflow::Detail::all : dmaflow::Detail::brief;
  const auto plans = pipeline.prepare(request);
  if (!plans) {
    std::cerr << "error: " << pipeline.refusal()->explain(detail);
    return 1;
  }
  for (const dmaflow::Plan& plan : *plans) std::cout << plan.explain(detail);
  std::cout << "converted by " << gpu->name() << '\n' << std::flush;

  dmaflow::RunOptions run{.stop_fd = stop.get(), .progress = live_line};
  if (seconds > 0) run.duration = std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
  pipeline.run(run).value();
  if (!json.empty()) std::ofstream(json) << statistics(pipeline, *gpu, *convert) << '\n';
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
