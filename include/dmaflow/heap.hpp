// dma-heaps: plain memory from the kernel as dma-bufs (/dev/dma_heap/NAME, since kernel 5.6).
//
// A heap's name is all the kernel tells about it, so what its memory is like comes from a table of the names that
// upstream kernels and common distributions use, and is "unknown" for every other name. Buffers are zeroed by the
// kernel. Sources: include/uapi/linux/dma-heap.h, Documentation/userspace-api/dma-buf-heaps.rst.
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace dmaflow::heap {

/// What is known about a property.
enum class Answer : std::uint8_t { unknown, no, yes };

/// What a heap's memory is like.
struct Properties {
  Answer contiguous = Answer::unknown;    ///< physically contiguous
  Answer cached = Answer::unknown;        ///< cached for the CPU
  Answer is_protected = Answer::unknown;  ///< out of the CPU's reach
  friend bool operator==(const Properties&, const Properties&) = default;
};

/// What the name says:
///   system                              not contiguous, cached
///   default_cma_region (Linux 6.17), reserved, linux,cma, default-pool (before)   contiguous, cached
///   system-uncached (vendor kernels)    not contiguous, not cached
///   *contiguous*                        contiguous (the kernel's naming convention)
///   *protected*, *restricted*           protected, such as protected,secure-video (TEE heaps, Linux 6.18)
/// and every other name nothing.
[[nodiscard]] Properties properties_of(std::string_view name) noexcept;

/// One heap of this machine.
struct Info {
  std::string name;
  Properties properties;
};

struct Options {
  std::string directory = "/dev/dma_heap";  ///< where the heaps' device files are
};

/// The heaps there are, by name; none where the kernel has none. Opens nothing.
[[nodiscard]] std::vector<Info> list(const Options& options = {});

/// Properties asked for; `unknown` asks nothing. A heap about which the property is unknown does not meet it.
using Wish = Properties;

/// Allocates LINEAR and opaque buffers from one heap. Use from one thread at a time.
class Allocator final : public dmaflow::Allocator {
 public:
  /// By name. Errors: EINVAL (the name has a slash), ENOENT (no such heap; the error lists those there are, or says
  /// which kernel option is missing), EACCES (the error names the owner and what would help), EMFILE.
  [[nodiscard]] static Result<std::unique_ptr<Allocator>> open(std::string_view name, const Options& options = {});
  /// The first heap, by name, that has all properties wished for and can be opened; plain "system" goes first.
  /// Errors: ENOENT (none has them), and those of open() for the first that has.
  [[nodiscard]] static Result<std::unique_ptr<Allocator>> open_with(const Wish& wish, const Options& options = {});

  /// "heap:" and the heap's name.
  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  /// Unknown properties count as not there.
  [[nodiscard]] MemoryTraits traits() const noexcept override;
  [[nodiscard]] Properties properties() const noexcept { return properties_; }

  /// Errors: EINVAL (as check_request() and linear_layout() say; contiguous memory asked of a heap known not to be),
  /// ENOMEM (also where the machine has not the memory available: the kernel would kill processes to find it), EMFILE,
  /// ENOTTY (the file is no heap), those of Buffer::create().
  [[nodiscard]] Result<std::vector<Buffer>> allocate(const Request& request) override;

 private:
  Allocator(std::string name, Fd fd);
  [[nodiscard]] Result<Fd> allocate_object(std::uint64_t size) const;

  std::string name_;
  Properties properties_;
  Fd fd_;
};

}  // namespace dmaflow::heap
