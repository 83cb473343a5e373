// The devices of a machine that allocate or import memory.
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/fd.hpp>
#include <dmaflow/gbm.hpp>
#include <dmaflow/heap.hpp>
#include <dmaflow/kms.hpp>
#include <dmaflow/udmabuf.hpp>
#include <dmaflow/vulkan.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace bench {

/// A missing device is null, and was reported in one line on stderr.
struct Machine {
  std::unique_ptr<dmaflow::heap::Allocator> heap;
  dmaflow::Fd raw_heap;  ///< the same device file, for raw calls
  std::unique_ptr<dmaflow::udmabuf::Allocator> udmabuf;
  dmaflow::Fd raw_udmabuf;
  std::vector<std::unique_ptr<dmaflow::kms::Device>> cards;  ///< one of each driver
  std::unique_ptr<dmaflow::gbm::Device> gbm;
  std::unique_ptr<dmaflow::vulkan::Device> gpu;
};

/// "left out: WHAT: WHY".
void leave_out(const std::string& what, const std::string& why);

[[nodiscard]] Machine open_machine();

/// The number of calls of operator new so far, in all threads of the program.
[[nodiscard]] std::size_t heap_allocations();

/// A frame size, with 32 bits a pixel.
struct Sized {
  const char* name = "";
  dmaflow::Size size{};
  int batch = 1;  ///< how many are alive at once, if an operation needs several
  [[nodiscard]] std::size_t bytes() const { return std::size_t{4} * size.width * size.height; }
  [[nodiscard]] dmaflow::Request request() const { return {.size = size, .format = dmaflow::formats::xrgb8888}; }
};

inline constexpr Sized kib64{.name = "64 KiB", .size = {128, 128}, .batch = 50};
inline constexpr Sized mib1{.name = "1 MiB", .size = {512, 512}, .batch = 10};
inline constexpr Sized full_hd{.name = "1080p", .size = {1920, 1080}, .batch = 3};
inline constexpr Sized ultra_hd{.name = "4K", .size = {3840, 2160}, .batch = 1};

/// An allocator of memory. Its name is the same on every machine with the same driver.
struct Maker {
  enum class Kind : std::uint8_t { heap, udmabuf, dumb, gbm, vulkan };
  Kind kind;
  std::string name;
  dmaflow::Allocator* allocator;
  int raw = -1;  ///< the device file, for raw calls
};
[[nodiscard]] std::vector<Maker> makers(const Machine& machine);

/// One frame of it, or an empty buffer; then the reason was printed.
[[nodiscard]] dmaflow::Buffer one_of(const Maker& maker, const Sized& size);

}  // namespace bench
