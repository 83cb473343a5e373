// The GPU stage: its output for every format, compared with the standards' formulas; its use between devices; its
// fences. Reading by a sampler is tested in vulkan_sampler_test.cpp.
#include "convert_support.hpp"

#include "fence_support.hpp"
#include "kms_support.hpp"
#include "screens.hpp"

#include <dmaflow/function_sink.hpp>
#include <dmaflow/kms.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/v4l2.hpp>
#include <dmaflow/vulkan_convert.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

#include <unistd.h>

namespace dmaflow::test {
namespace {

constexpr PixelFormat yuv_formats[] = {formats::nv12, formats::nv21,   formats::nv16,   formats::yuyv,
                                       formats::uyvy, formats::yuv420, formats::yvu420, formats::p010};
constexpr PixelFormat rgb_formats[] = {formats::xrgb8888, formats::xbgr8888,    formats::argb8888,
                                       formats::rgb565,   formats::xrgb2101010, formats::r8};

TEST_F(VulkanConvert, EveryYuvFormatInEveryMatrixAndRangeIsWithinOneOfTheReference) {
  for (const PixelFormat format : yuv_formats) {
    const Buffer buffer = heap_buffer({64, 48}, format);
    fill_with_noise(buffer, 7);
    auto stage = start_stage(*gpu, std::span(&buffer, 1), {});
    double largest = 0;
    for (const auto matrix : {ColorInfo::Matrix::bt601, ColorInfo::Matrix::bt709, ColorInfo::Matrix::bt2020}) {
      for (const auto range : {ColorInfo::Range::full, ColorInfo::Range::limited}) {
        const ColorInfo color = color_of(matrix, range);  // of the frame, so it may change with every frame
        const Frame result = convert_one(*stage.convert, frame_of(buffer, {.color = color}));
        auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
        const Reference reference(buffer.layout(), access.object(0), color);
        largest =
            std::max(largest, largest_error(result, [&](int x, int y) { return reference.at(x + 0.5, y + 0.5); }));
      }
    }
    std::printf("%s: at most %.0f of 255 off\n", format.name().c_str(), largest);
    EXPECT_LE(largest, 1) << format.name();
  }
}

TEST_F(VulkanConvert, EveryRgbFormatIsWithinOneOfTheReference) {
  for (const PixelFormat format : rgb_formats) {
    const double largest = error_of(heap_buffer({64, 48}, format), {});
    std::printf("%s: at most %.0f of 255 off\n", format.name().c_str(), largest);
    EXPECT_LE(largest, 1) << format.name();
  }
}

TEST_F(VulkanConvert, OddSizesAndOnePixelAndWideStrides) {
  const ColorInfo color = color_of(ColorInfo::Matrix::bt709, ColorInfo::Range::limited);
  for (const PixelFormat format : yuv_formats) {
    for (const Size size : {Size{1, 1}, Size{33, 17}}) {
      for (const std::uint32_t alignment : {1U, 256U}) {
        const Buffer buffer = heap_buffer(size, format, {.stride_alignment = alignment, .offset_alignment = 64});
        EXPECT_LE(error_of(buffer, color), 1)
            << format.name() << " " << size.width << "x" << size.height << " strides of " << alignment;
      }
    }
  }
}

TEST_F(VulkanConvert, ScalesUpAndDownBilinearly) {
  const ColorInfo color = color_of(ColorInfo::Matrix::bt601, ColorInfo::Range::limited);
  for (const PixelFormat format : {formats::nv12, formats::yuyv, formats::xrgb8888}) {
    for (const Size to : {Size{128, 96}, Size{100, 75}, Size{32, 24}, Size{7, 5}}) {
      const double largest = error_of(heap_buffer({64, 48}, format), color, {.size = to, .fit = vulkan::Fit::stretch});
      EXPECT_LE(largest, 1) << format.name() << " to " << to.width << "x" << to.height;
    }
  }
}

TEST_F(VulkanConvert, TurnsByQuartersCounterClockwise) {
  for (const PixelFormat format : {formats::nv12, formats::xrgb8888}) {
    const Buffer buffer = heap_buffer({40, 24}, format);
    fill_with_noise(buffer, 3);
    const ColorInfo color = color_of(ColorInfo::Matrix::bt709, ColorInfo::Range::full);
    for (const Rotation rotation : {Rotation::by_90, Rotation::by_180, Rotation::by_270}) {
      auto stage = start_stage(*gpu, std::span(&buffer, 1), color, {.rotation = rotation});
      const Frame result = convert_one(*stage.convert, frame_of(buffer, {.color = color}));
      const bool sideways = rotation != Rotation::by_180;
      EXPECT_EQ(result.buffer().layout().size, (sideways ? Size{24, 40} : Size{40, 24}));
      auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
      const Reference reference(buffer.layout(), access.object(0), color);
      EXPECT_LE(largest_error(result,
                              [&](int x, int y) {
                                const auto [sx, sy] = turned_back(x + 0.5, y + 0.5, {40, 24}, rotation);
                                return reference.at(sx, sy);
                              }),
                1)
          << format.name();
    }
  }
}

TEST_F(VulkanConvert, KeepsTheShapeAndLeavesTheRestBlack) {
  const Buffer buffer = heap_buffer({64, 32}, formats::xrgb8888);
  fill_with_noise(buffer, 4);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, {.size = Size{100, 100}});
  const Frame result = convert_one(*stage.convert, frame_of(buffer));
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
  const Reference reference(buffer.layout(), access.object(0), {});
  EXPECT_LE(largest_error(result,
                          [&](int x, int y) -> Reference::Rgb {
                            if (y < 25 || y >= 75) return {0, 0, 0};
                            return reference.at((x + 0.5) * 0.64, (y - 25 + 0.5) * 0.64);
                          }),
            1);
}

TEST_F(VulkanConvert, ShowsOnlyTheVisiblePartAndFollowsItFromFrameToFrame) {
  const Buffer buffer = heap_buffer({64, 64}, formats::xrgb8888);
  fill_with_noise(buffer, 5);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, {.size = Size{32, 32}});
  for (const Rect visible : {Rect{16, 8, 32, 32}, Rect{0, 32, 32, 32}}) {
    const Frame result = convert_one(*stage.convert, frame_of(buffer, {.visible = visible}));
    auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
    const Reference reference(buffer.layout(), access.object(0), {});
    EXPECT_LE(
        largest_error(result, [&](int x, int y) { return reference.at(x + visible.x + 0.5, y + visible.y + 0.5); }), 1);
  }
}

TEST_F(VulkanConvert, AVisiblePartThatIsEnlargedIsInterpolatedThoughTheWholeWouldNotBeScaled) {
  const Buffer buffer = heap_buffer({64, 64}, formats::xrgb8888);
  fill_with_noise(buffer, 7);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, {.size = Size{64, 64}});
  for (const Rect visible : {Rect{16, 8, 32, 32}, Rect{0, 0, 64, 64}}) {
    const Frame result = convert_one(*stage.convert, frame_of(buffer, {.visible = visible}));
    auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
    const Reference reference(buffer.layout(), access.object(0), {});
    // At its edge the visible part's own texels are repeated; those beyond it are not read.
    const auto inside = [](double at, std::int32_t first, std::uint32_t count) {
      return std::clamp(at * count / 64.0, 0.5, count - 0.5) + first;
    };
    EXPECT_LE(largest_error(result,
                            [&](int x, int y) {
                              return reference.at(inside(x + 0.5, visible.x, visible.width),
                                                  inside(y + 0.5, visible.y, visible.height));
                            }),
              1)
        << visible.width;
  }
}

TEST_F(VulkanConvert, DrawsThePictureOnTopAndCutsOffWhatIsOutside) {
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  fill_with_noise(buffer, 6);
  vulkan::Picture picture{.size = {16, 8}, .rgba = {}, .x = 24, .y = -2};
  for (unsigned i = 0; i < 16 * 8; ++i) {
    for (const unsigned value : {200U, 100U, 50U, i * 2}) picture.rgba.push_back(static_cast<std::uint8_t>(value));
  }
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, {.overlay = picture});
  const Frame result = convert_one(*stage.convert, frame_of(buffer));
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
  const Reference reference(buffer.layout(), access.object(0), {});
  EXPECT_LE(largest_error(result,
                          [&](int x, int y) {
                            auto rgb = reference.at(x + 0.5, y + 0.5);
                            if (x < 24 || y >= 6) return rgb;
                            const double alpha = static_cast<double>((y + 2) * 16 + x - 24) * 2 / 255;
                            const Reference::Rgb over{200.0 / 255, 100.0 / 255, 50.0 / 255};
                            for (std::size_t c = 0; c < 3; ++c) rgb[c] = rgb[c] * (1 - alpha) + over[c] * alpha;
                            return rgb;
                          }),
            1);
}

TEST_F(VulkanConvert, SeveralBuffersInTurnWithTwoInFlightStayThemselves) {
  std::vector<Buffer> inputs;
  for (unsigned i = 0; i < 3; ++i) {
    inputs.push_back(heap_buffer({32, 32}, formats::nv12));
    fill_with_noise(inputs.back(), 20 + i);
  }
  const ColorInfo color = color_of(ColorInfo::Matrix::bt601, ColorInfo::Range::limited);
  auto stage = start_stage(*gpu, inputs, color, {}, 4);
  for (unsigned n = 0; n < 12; ++n) {
    const Buffer& buffer = inputs[n % 3];
    const Frame result = convert_one(*stage.convert, frame_of(buffer, {.sequence = n, .color = color}));
    EXPECT_EQ(result.info().sequence, n);
    auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
    const Reference reference(buffer.layout(), access.object(0), color);
    EXPECT_LE(largest_error(result, [&](int x, int y) { return reference.at(x + 0.5, y + 0.5); }), 1) << n;
  }
  must(stage.convert->drain(Deadline::after(5s)));
  EXPECT_EQ(stage.convert->turnaround().count(), 12U);
}

// --- Fences

/// Every byte of a buffer.
std::vector<std::byte> contents(const Buffer& buffer) {
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "contents");
  const auto bytes = access.object(0);
  return {bytes.begin(), bytes.end()};
}

/// Signals the producer's fence after a time that no test needs, so that a call which wrongly waits for it ends.
class Rescue {
 public:
  explicit Rescue(SwSync& producer)
      : thread_([this, &producer](const std::stop_token& stop) {
          std::mutex mutex;
          std::unique_lock lock(mutex);
          std::condition_variable_any wake;
          wake.wait_for(lock, stop, 20s, [] { return false; });
          if (stop.stop_requested()) return;
          was_needed_ = true;
          producer.advance();
        }) {}
  /// Stops it, and returns whether it had to signal.
  bool end() {
    thread_.request_stop();
    thread_.join();
    return was_needed_;
  }

 private:
  std::atomic<bool> was_needed_{false};
  std::jthread thread_;
};

// Without the wait the stage would convert the zeros that are in the buffer before the producer has written it.
TEST_F(VulkanConvert, AFrameIsNotReadBeforeItsFenceAndTheLoopGoesOn) {
  SwSync producer;
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {});
  Rescue rescue(producer);
  must(stage.convert->accept(frame_of(buffer, {}, producer.fence(1))));
  const Frame early = must(stage.convert->take());
  ASSERT_FALSE(rescue.end()) << "it blocked";
  std::this_thread::sleep_for(100ms);
  const auto untouched = contents(stage.outputs[0]);
  EXPECT_TRUE(std::ranges::all_of(untouched, [](std::byte b) { return b == std::byte{0}; })) << "written to already";

  fill_with_noise(buffer, 8);  // the producer's work
  producer.advance();
  Frame result = early ? Frame() : must(stage.convert->take());
  const Frame& shown = early ? early : result;
  ASSERT_TRUE(shown);
  auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "reference");
  const Reference reference(buffer.layout(), access.object(0), {});
  EXPECT_LE(largest_error(shown, [&](int x, int y) { return reference.at(x + 0.5, y + 0.5); }), 1);
}

TEST_F(VulkanConvert, AFrameWhoseFenceFailedIsLetGo) {
  SwSync producer;
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {});
  auto holds = must(HoldSet::create({buffer}), "HoldSet");
  Frame frame = must(holds->lend(0, {}, producer.fence(1)));
  producer.fail();
  must(stage.convert->accept(std::move(frame)));
  EXPECT_FALSE(must(stage.convert->take()));
  EXPECT_EQ(holds->lent(), 0U);
  EXPECT_TRUE(stage.convert->ready());
}

TEST_F(VulkanConvert, TheFrameItReadGoesBackWithTheFenceOfTheReading) {
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {});
  auto holds = must(HoldSet::create({buffer}), "HoldSet");
  const Frame result = convert_one(*stage.convert, must(holds->lend(0, {})));
  auto back = holds->take_returned();
  ASSERT_TRUE(back);
  for (const Fence& fence : back->fences) EXPECT_TRUE(fence.wait(Deadline::after(5s)));
}

// While all slots are in use, a newer frame may still arrive, so the stage accepts none that would only wait in it.
TEST_F(VulkanConvert, WithEveryPlaceTakenItIsNotReadyUntilOneIsFree) {
  const Buffer buffer = heap_buffer({512, 512}, formats::xrgb8888);
  const vulkan::ConvertOptions options{.in_flight = 1};
  auto stage = start_stage(*gpu, std::span(&buffer, 1), {}, options);
  auto holds = must(HoldSet::create({buffer}), "HoldSet");
  EXPECT_TRUE(stage.convert->ready());
  EXPECT_EQ(stage.convert->waiting_fence(), -1);
  must(stage.convert->accept(must(holds->lend(0, {}))), "accept");
  Frame result = must(stage.convert->take(), "take");
  ASSERT_TRUE(result);
  EXPECT_FALSE(stage.convert->ready());
  const int end = stage.convert->waiting_fence();
  ASSERT_GE(end, 0);
  pollfd wait{.fd = end, .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&wait, 1, 10000), 1);
  must(stage.convert->dispatch(0), "dispatch");
  EXPECT_TRUE(stage.convert->ready());
  EXPECT_EQ(stage.convert->waiting_fence(), -1);
}

// --- In a pipeline

// A YUV camera on an XRGB screen: nothing is copied, nothing is imported after the start, and screenshots from outside
// the guest show the camera's bars.
TEST_F(VulkanConvert, ABranchAsksForTheSizeOfItsOwnImages) {
  if (!in_lab()) GTEST_SKIP() << "needs a camera of the lab";
  const LeakCheck leaks;
  const auto camera = must(v4l2::Camera::open("/dev/video0"));
  auto convert = must(Convert::create(*gpu, {}));
  const auto heap = system_heap();
  Size whole{};
  Size small{};
  const auto keep = [](Size& size) {
    return [&size](const Frame& frame) -> Result<void> {
      size = frame.buffer().layout().size;
      return {};
    };
  };
  const auto recorder = must(FunctionSink::create(keep(whole)));
  const auto detector = must(FunctionSink::create(keep(small)));
  Pipeline pipeline;
  pipeline.offer(*heap);
  must(pipeline.connect(*camera, *recorder, "recorder"));
  must(pipeline.connect(*camera, *detector, "detector",
                        {.stages = {convert.get()}, .request = StreamRequest{.size = Size{160, 120}}}));
  const auto plans = pipeline.prepare({.size = Size{640, 480}, .formats = {formats::yuyv}});
  ASSERT_TRUE(plans) << plans.error().message();
  must(pipeline.run({.frames = 6}));
  EXPECT_EQ(whole, (Size{640, 480}));
  EXPECT_EQ(small, (Size{160, 120}));
}

TEST_F(VulkanConvert, AYuvCameraIsSeenOnAnRgbScreen) {
  if (!in_lab()) GTEST_SKIP() << "pictures are taken outside the lab's guest";
  const LeakCheck leaks;
  for (const std::string& driver : shared_screens()) {
    const auto camera = must(v4l2::Camera::open("/dev/video0"));
    const auto card = must(kms::Device::open(card_path(driver)));
    kms::Plane* screen = must(must(card->output())->plane());
    auto convert = must(Convert::create(*gpu, {.size = Size{1280, 720}}));
    auto heap = system_heap();
    Pipeline pipeline;
    pipeline.offer(*heap);
    must(pipeline.connect(*camera, *screen, "screen", {.stages = {convert.get()}}));
    const auto plans = pipeline.prepare({.size = Size{1280, 720}, .formats = {formats::yuyv}});
    ASSERT_TRUE(plans) << plans.error().message();
    ASSERT_EQ(plans->size(), 2U);
    EXPECT_EQ(plans->at(0).config.layout.format, formats::yuyv);
    EXPECT_EQ(plans->at(1).config.layout.size, (Size{1280, 720}));
    must(pipeline.start());
    const std::string name = DMAFLOW_BUILD_DIR "/gpu-" + driver + ".png";
    std::string shown = "no picture";
    const auto end = Deadline::after(60s);
    const CountCalls imports("ioctl", DRM_IOCTL_PRIME_FD_TO_HANDLE);
    while (pipeline.stats().streams[0].branches[0].presented < 8 && end.remaining() > 0s) {
      must(pipeline.step(Deadline::after(1s)));
    }
    EXPECT_EQ(imports.calls(), 0U);
    const std::string display = driver == "virtio_gpu" ? "virtio" : "bochs";  // QEMU's name for it
    ASSERT_EQ(std::system(("lab-screenshot " + name + " " + display).c_str()), 0);
    const std::string report = name + ".txt";
    ASSERT_EQ(std::system(("python3 " DMAFLOW_VIVID_SCREEN " " + name + " >" + report).c_str()), 0);
    std::ifstream file(report);
    std::getline(file, shown);
    EXPECT_TRUE(shown.starts_with("bars right, 1280x720, counter ")) << driver << ": " << shown;
    const StreamStats& stats = pipeline.stats().streams[0];
    EXPECT_GE(stats.branches[0].presented, 8U);
    EXPECT_EQ(stats.bytes_copied, 0U);
    EXPECT_GE(convert->turnaround().count(), 7U);
    std::printf("%s: %llu captured, %llu presented; the GPU's part %.1f ms, of %.1f ms in all\n", driver.c_str(),
                static_cast<unsigned long long>(stats.captured),
                static_cast<unsigned long long>(stats.branches[0].presented),
                static_cast<double>(convert->gpu_time().percentile(50).count()) / 1e6,
                static_cast<double>(stats.branches[0].latency.percentile(50).count()) / 1e6);
    must(pipeline.stop(Deadline::after(10s)));
  }
}

}  // namespace
}  // namespace dmaflow::test
