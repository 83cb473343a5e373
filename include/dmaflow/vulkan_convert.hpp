// The GPU as a stage: frames of one format, size and colour become frames of another, without a copy in user space.
//
//     auto gpu = vulkan::Device::create();
//     auto convert = vulkan::Convert::create(**gpu, {.size = Size{1280, 720}});
//     pipeline.connect(camera, screen, "screen", {.stages = {convert->get()}});
#pragma once

#include <dmaflow/device.hpp>
#include <dmaflow/stats.hpp>
#include <dmaflow/vulkan.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace dmaflow::vulkan {

/// Counter-clockwise, as DRM_MODE_ROTATE_*.
enum class Rotation : std::uint8_t { none, by_90, by_180, by_270 };

/// How a picture of one shape fills a target of another.
enum class Fit : std::uint8_t {
  contain,  ///< all of the picture, centred, with black bars
  stretch,  ///< fills the target, without keeping the proportions
};

/// A picture drawn over every frame, pixel for pixel.
struct Picture {
  Size size{};
  std::vector<std::uint8_t> rgba{};  ///< four bytes a pixel, row after row; alpha not multiplied in
  std::int32_t x = 0;                ///< of its top left corner on the target; parts outside are cut off
  std::int32_t y = 0;
};

/// How YUV is read. The result is the same if the device's sampler is as exact as the shader's arithmetic on planes.
enum class Sampling : std::uint8_t {
  automatic,  ///< planes if that works, else sampler
  planes,     ///< an image per plane: linear memory
  sampler,    ///< one image, by a sampler with a Y'CbCr conversion: any memory that the device supports for it, also
              ///< tiled
};

struct ConvertOptions {
  std::optional<Size> size{};  ///< of the frames it produces; unset = that of the input, rotated
  /// What it may produce, best first.
  std::vector<PixelFormat> formats = {formats::xrgb8888, formats::xbgr8888, formats::argb8888, formats::abgr8888,
                                      formats::xrgb2101010};
  Fit fit = Fit::contain;
  Rotation rotation = Rotation::none;
  std::optional<Picture> overlay{};
  Sampling sampling = Sampling::automatic;
  std::uint32_t in_flight = 2;  ///< frames the GPU works on at once: 1 to 8
  /// Also puts each frame's fence on its dma-bufs, for consumers that check it there (see docs/synchronization.md).
  bool implicit_fences = false;
  /// Reads the GPU's clock for gpu_time(). Almost free with hardware; a software device stops its queue for it.
  bool measure = true;
};

/// Converts format and colour, scales (bilinear), turns, draws a picture on top; one compute shader. Takes YUV (NV12,
/// NV21, NV16, NV61, NV24, NV42, P010, P210, YUV420, YVU420, YUV422, YUV444, YUYV, UYVY and similar formats), RGB as
/// far as the device supports it, and R8 (grey). Produces full-range RGB; if ColorInfo does not name the matrix, YUV
/// below 720 lines is treated as BT.601 and other YUV as BT.709, limited range. Chroma is sited as in MPEG-2 and H.264:
/// on every other column, and with 4:2:0 halfway between two rows. Transfer function and primaries stay as they are.
///
/// With a sampler (Sampling), chroma is sited there only if the device supports that (else on the rows and columns that
/// it supports), is interpolated only if the device interpolates such formats (else the nearest sample is used), and
/// may come from half a sample outside the visible part. Sizes must then be whole chroma samples: 4:2:0 even in both
/// directions, 4:2:2 in width. NV24 and NV42 work only with planes.
///
/// Frames are passed on at once, with the fence of the GPU's work; input frames are released with that fence. Nothing
/// is allocated, imported or created per frame. The device must outlive the stage. One thread, the loop's.
class Convert final : public Stage {
 public:
  /// Errors: EINVAL (options out of range; an overlay whose bytes do not make its size), ENOTSUP (the device writes no
  /// images without a format: shaderStorageImageWriteWithoutFormat), and Vulkan's own.
  [[nodiscard]] static Result<std::unique_ptr<Convert>> create(Device& device, const ConvertOptions& options = {});
  /// Waits up to two seconds for the GPU.
  ~Convert() override;

  [[nodiscard]] std::string_view name() const noexcept override;
  /// Errors: ENOTSUP (a format or modifier the device cannot read: lists those it can, and says for each allowed method
  /// of reading YUV why it does not work), EINVAL (too large; odd, with a sampler), ENODEV (detached).
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override;
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override;
  [[nodiscard]] Result<void> import(const Buffer& buffer) override;
  /// Errors: those of import(), and ENOBUFS (it has HoldSet::max_buffers).
  [[nodiscard]] Result<void> add_buffer(const Buffer& buffer) override;
  /// Waits for the GPU, 5 s at most; if its work is not over then, the buffer is kept until stop().
  void remove_buffer(const Buffer& buffer) noexcept override;
  [[nodiscard]] Needs needs() const override { return {.constraints = {}, .usage = {.render = true}, .modifiers = {}}; }
  [[nodiscard]] std::uint32_t max_held() const noexcept override;
  [[nodiscard]] bool returns_in_calls() const noexcept override { return true; }
  [[nodiscard]] std::uint64_t dropped() const noexcept override;

  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest& request) override;
  [[nodiscard]] Result<void> set_output(const StreamConfig& config) override;
  [[nodiscard]] const StreamConfig& output() const noexcept override;
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override;
  [[nodiscard]] Usage output_usage() const noexcept override { return {.render = true}; }
  [[nodiscard]] Allocator* output_allocator() noexcept override;

  [[nodiscard]] int poll_fd() const noexcept override { return -1; }
  [[nodiscard]] short poll_events() const noexcept override { return 0; }
  [[nodiscard]] Result<void> dispatch(short revents) override;
  [[nodiscard]] int waiting_fence() const noexcept override;

  /// Errors: EBUSY (started), those of the imports, and Vulkan's own.
  [[nodiscard]] Result<void> start(std::span<const Buffer> inputs, std::vector<Buffer> outputs) override;
  /// True if a slot in flight is free.
  [[nodiscard]] bool ready() const noexcept override;
  /// Submits the frame's work as soon as an output is free. A frame whose fence has failed is released, with a warning
  /// to the log. Errors: EAGAIN (no free slot), EINVAL (a buffer it was not started with), VK_ERROR_DEVICE_LOST and
  /// others of Vulkan.
  [[nodiscard]] Result<void> accept(Frame frame) override;
  [[nodiscard]] Result<Frame> take() override;
  Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) override;
  Result<void> stop() noexcept override;

  /// How it reads the configured format: planes or sampler. RGB is one plane.
  [[nodiscard]] Sampling sampling() const noexcept;
  /// The GPU time of each frame, by the GPU's own clock; empty if it has none, or without ConvertOptions::measure.
  [[nodiscard]] const Histogram& gpu_time() const noexcept;
  /// From the frame's time stamp to the submission of its work: the age of what the GPU gets.
  [[nodiscard]] const Histogram& waited() const noexcept;
  /// From the submission to the end of the work, as the loop saw it.
  [[nodiscard]] const Histogram& turnaround() const noexcept;

  struct Impl;

 private:
  explicit Convert(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow::vulkan
