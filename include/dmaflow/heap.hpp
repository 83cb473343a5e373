// dma-heaps: plain memory from the kernel as dma-bufs (/dev/dma_heap/NAME, since kernel 5.6).
//
// The kernel reports only a heap's name. So the properties of its memory come from a table of the names that upstream
// kernels and common distributions use, and are "unknown" for every other name. The kernel zeroes the buffers. Sources:
// include/uapi/linux/dma-heap.h, Documentation/userspace-api/dma-buf-heaps.rst.
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

/// Whether a heap has a property.
enum class Answer : std::uint8_t { unknown, no, yes };

/// Properties of a heap's memory.
struct Properties {
  Answer contiguous = Answer::unknown;    ///< physically contiguous
  Answer cached = Answer::unknown;        ///< cached for the CPU
  Answer is_protected = Answer::unknown;  ///< not accessible to the CPU
  friend bool operator==(const Properties&, const Properties&) = default;
};

/// What the name says:
///   system                              not contiguous, cached
///   default_cma_region (Linux 6.17), reserved, linux,cma, default-pool (before)   contiguous, cached
///   system-uncached (vendor kernels)    not contiguous, not cached
///   *contiguous*                        contiguous (the kernel's naming convention)
///   *protected*, *restricted*           protected, such as protected,secure-video (TEE heaps, Linux 6.18)
/// Every other name says nothing.
[[nodiscard]] Properties properties_of(std::string_view name) noexcept;

/// One heap of this machine.
struct Info {
  std::string name;
  Properties properties;
};

struct Options {
  std::string directory = "/dev/dma_heap";  ///< where the heaps' device files are
};

/// The existing heaps, by name; empty if the kernel has none. Opens nothing.
[[nodiscard]] std::vector<Info> list(const Options& options = {});

/// Requested properties; `unknown` requests nothing. A heap whose property is unknown does not meet a request for it.
using Wish = Properties;

/// Allocates LINEAR and opaque buffers from one heap. Use from one thread at a time.
class Allocator final : public dmaflow::Allocator {
 public:
  /// By name. Errors: EINVAL (the name has a slash), ENOENT (no such heap; the error lists the existing ones, or says
  /// which kernel option is missing), EACCES (the error names the owner and what would help), EMFILE.
  [[nodiscard]] static Result<std::unique_ptr<Allocator>> open(std::string_view name, const Options& options = {});
  /// The first heap, by name, that has all requested properties and can be opened; plain "system" is tried first.
  /// Errors: ENOENT (none has them), and those of open() for the first that has.
  [[nodiscard]] static Result<std::unique_ptr<Allocator>> open_with(const Wish& wish, const Options& options = {});

  /// "heap:" and the heap's name.
  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  /// Unknown properties count as absent.
  [[nodiscard]] MemoryTraits traits() const noexcept override;
  [[nodiscard]] Properties properties() const noexcept { return properties_; }

  /// Errors: EINVAL (as check_request() and linear_layout() say; contiguous memory requested from a heap known not to
  /// be contiguous), ENOMEM (also if the machine does not have that much memory available: the kernel would kill
  /// processes to get it), EMFILE, ENOTTY (the file is no heap), those of Buffer::create().
  [[nodiscard]] Result<std::vector<Buffer>> allocate(const Request& request) override;

 private:
  Allocator(std::string name, Fd fd);
  [[nodiscard]] Result<Fd> allocate_object(std::uint64_t size) const;

  std::string name_;
  Properties properties_;
  Fd fd_;
};

}  // namespace dmaflow::heap
