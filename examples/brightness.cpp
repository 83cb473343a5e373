// Shows a camera on a display, measures the picture's brightness in a separate thread, and prints it once a second on
// stdout. The analysis may be slow: the display still gets every frame, and the analysis gets the newest.
#include <dmaflow/dmaflow.hpp>

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <span>
#include <string>

namespace {

/// Where a format stores its luma: the offset of the first value and the distance between two values, in bytes. For RGB
/// green is used, which contributes most to the luma.
struct Luma {
  dmaflow::PixelFormat format;
  std::size_t offset = 0;
  std::size_t step = 1;
};
constexpr Luma lumas[] = {{dmaflow::formats::nv12, 0, 1},     {dmaflow::formats::nv16, 0, 1},
                          {dmaflow::formats::yuv420, 0, 1},   {dmaflow::formats::yuyv, 0, 2},
                          {dmaflow::formats::uyvy, 1, 2},     {dmaflow::formats::xrgb8888, 1, 4},
                          {dmaflow::formats::xbgr8888, 1, 4}, {dmaflow::formats::r8, 0, 1}};

/// The mean of a frame, 0 to 255.
double brightness(const dmaflow::Layout& layout, std::span<const std::byte> pixels) {
  const Luma* luma = lumas;
  while (luma->format != layout.format) ++luma;  // the sink takes no other formats
  std::uint64_t sum = 0;
  for (std::size_t y = 0; y < layout.size.height; ++y) {
    const auto row = pixels.subspan(y * layout.planes[0].stride);
    for (std::size_t x = 0; x < layout.size.width; ++x) {
      sum += std::to_integer<std::uint64_t>(row[luma->offset + x * luma->step]);
    }
  }
  return static_cast<double>(sum) / (static_cast<double>(layout.size.width) * layout.size.height);
}

/// The function that ThreadSink calls. Only the worker's thread accesses its data.
class Analysis {
 public:
  dmaflow::Result<void> operator()(const dmaflow::Frame& frame, const dmaflow::Cancel& stop) {
    const auto deadline = dmaflow::Deadline::after(std::chrono::seconds(1));
    const auto pixels = dmaflow::CpuAccess::begin(frame.buffer(), dmaflow::Access::read, deadline, &stop);
    if (!pixels) return std::unexpected(pixels.error());
    sum_ += brightness(frame.buffer().layout(), pixels->plane(0));
    ++frames_;
    if (next_.remaining() > dmaflow::Deadline::Clock::duration::zero()) return {};
    std::cout << "brightness " << sum_ / frames_ << " over " << frames_ << " frames\n" << std::flush;
    *this = Analysis();
    return {};
  }

 private:
  dmaflow::Deadline next_ = dmaflow::Deadline::after(std::chrono::seconds(1));
  double sum_ = 0;
  int frames_ = 0;
};

}  // namespace

int main(int argc, char** argv) try {
  std::string camera_path, display_path;
  double seconds = 0;
  CLI::App app("Shows a camera on a display and measures the picture's brightness in another thread.");
  app.add_option("--camera", camera_path, "such as /dev/video0; the first there is, if not given");
  app.add_option("--display", display_path, "such as /dev/dri/card0; the first with a monitor, if not given");
  app.add_option("--seconds", seconds, "how long; until Ctrl-C, if not given")->check(CLI::NonNegativeNumber);
  CLI11_PARSE(app, argc, argv);

  const dmaflow::Fd stop = dmaflow::stop_on_signals().value();
  const auto camera = dmaflow::v4l2::Camera::open(camera_path).value();
  const auto card = dmaflow::kms::Device::open(display_path).value();
  dmaflow::kms::Plane* const screen = card->output().value()->plane().value();

  dmaflow::ThreadSinkOptions takes{.name = "brightness"};
  for (const Luma& luma : lumas) takes.formats.push_back(luma.format);
  const auto analysis = dmaflow::ThreadSink::create(Analysis(), takes).value();

  dmaflow::Pipeline pipeline;
  pipeline.connect(*camera, *screen).value();
  pipeline.connect(*camera, *analysis, "brightness").value();  // Policy::latest: the newest replaces the waiting one
  std::cout << pipeline.prepare().value().front().explain() << std::flush;

  dmaflow::RunOptions options{.stop_fd = stop.get()};
  if (seconds > 0) options.duration = std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
  pipeline.run(options).value();
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
} catch (const std::bad_expected_access<dmaflow::Refused>& refused) {
  std::cerr << "error: " << refused.error().explain();
  return 1;
}
