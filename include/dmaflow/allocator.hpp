// Allocator: makes buffers. A heap, a camera, a display, a GPU: negotiation tries each through this interface.
#pragma once

#include <dmaflow/buffer.hpp>
#include <dmaflow/layout.hpp>

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace dmaflow {

/// What the buffers are for. A hint for allocators that place memory by use.
struct Usage {
  bool capture = false;  ///< a V4L2 device writes or reads
  bool scanout = false;  ///< a display shows
  bool render = false;   ///< a GPU reads or writes
  bool cpu = false;      ///< the CPU reads or writes
};

/// One request, to be met completely or refused.
struct Request {
  Size size{};
  PixelFormat format{};
  std::vector<Modifier> modifiers = {Modifier::linear()};  ///< acceptable ones, best first
  std::uint64_t opaque_bytes = 0;                          ///< capacity if the format is opaque
  Usage usage{};
  std::uint32_t count = 1;  ///< 1 to 64
  Constraints constraints{};
};

/// The kind of memory that an allocator provides.
struct MemoryTraits {
  bool contiguous = false;  ///< physically contiguous
  bool cached = false;      ///< cached for the CPU
  bool is_protected = false;
  /// The driver moves it when it is shown, even while another device has it mapped: that device then writes to the old
  /// location. Only the CPU's own mappings follow. Known after a buffer was imported by the display (bochs of 6.12:
  /// video memory).
  bool moves = false;
};

/// Makes dma-bufs. Implementations say which threads may call them; none is called from two at once by dmaflow.
class Allocator {
 public:
  Allocator() = default;
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;
  virtual ~Allocator() = default;

  /// A short name for selecting it, the same on every run: "heap:system", "udmabuf", "camera", "display".
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  [[nodiscard]] virtual MemoryTraits traits() const noexcept = 0;

  /// @p request.count buffers of one layout, or none: on an error nothing is left behind.
  /// Errors: EINVAL (a size, format or constraint it cannot meet), ENOMEM, EACCES, ENODEV, those of its system calls.
  [[nodiscard]] virtual Result<std::vector<Buffer>> allocate(const Request& request) = 0;
};

/// The first of these that was opened and really makes a buffer (of 16 KiB, which is freed at once). The others are
/// closed. Errors: the code of the last one's error; the detail says for each why it does not work.
[[nodiscard]] Result<std::unique_ptr<Allocator>> first_that_works(
    std::vector<Result<std::unique_ptr<Allocator>>> opened);

/// The first check of every allocate(): count 1 to 64, size 1x1 to max_dimension, a modifier given.
[[nodiscard]] Result<void> check_request(const Request& request, std::string_view allocator);
/// A linear layout (or an opaque one) for @p request, as allocators of plain memory make it.
/// EINVAL if the request does not accept LINEAR, or the format is unknown.
[[nodiscard]] Result<Layout> linear_layout(const Request& request, std::string_view allocator);

}  // namespace dmaflow
