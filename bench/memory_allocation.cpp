#include "memory_operations.hpp"
#include "raw/gpu_memory.hpp"
#include "repeat.hpp"

#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

namespace bench {
namespace {

// --- The whole allocation --------------------------------------------------------------------------------------------

/// The usage for which Device::allocator() makes images if it can.
constexpr VkImageUsageFlags image_usage = VK_IMAGE_USAGE_SAMPLED_BIT | VK_IMAGE_USAGE_STORAGE_BIT |
                                          VK_IMAGE_USAGE_TRANSFER_SRC_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT;

/// Whether the library first checks that there is enough memory, because the kernel would otherwise kill a process.
enum class Looks : std::uint8_t { no, first };

/// @p make: returns a dma-buf of the size, made by raw calls, or a negative number.
template <typename Make>
Operation allocation(const Maker& maker, const Sized& size, Looks looks, Make make) {
  const auto ours = [allocator = maker.allocator, request = size.request()] {
    require(allocator->allocate(request).has_value(), "Allocator::allocate");
  };
  const auto same = [make] {
    const int fd = make();
    require(fd >= 0, "raw allocation");
    ::close(fd);
  };
  const auto checked = [make, looks, bytes = size.bytes()] {
    if (looks == Looks::first) require(raw::has_memory(bytes), "MemAvailable");
    const int fd = make();
    raw::Identity identity{};
    require(fd >= 0 && raw::look_at_dma_buf(fd, bytes, identity) == 0, "raw allocation");
    ::close(fd);
  };
  return {.name = "allocate/" + maker.name + "/" + size.name,
          .batch = size.batch,
          .ways = {{"dmaflow", repeat(ours)}, {"raw", repeat(same)}, {"raw, checked", repeat(checked)}}};
}

Operation allocation(const Machine& machine, const Maker& maker, const Sized& size) {
  using enum Maker::Kind;
  const int device = maker.raw;
  const auto [width, height] = size.size;
  const std::size_t bytes = size.bytes();
  switch (maker.kind) {
    case heap:
      return allocation(maker, size, Looks::first, [=] { return raw::heap_alloc(device, bytes); });
    case udmabuf:
      return allocation(maker, size, Looks::first, [=] { return raw::udmabuf_alloc(device, bytes); });
    case dumb:
      return allocation(maker, size, Looks::no, [=] { return raw::dumb_alloc(device, width, height); });
    case gbm:
      return allocation(maker, size, Looks::no,
                        [=, gbm_device = machine.gbm->get()] { return raw::gbm_alloc(gbm_device, width, height); });
    case vulkan:
      break;
  }
  const auto& gpu = *machine.gpu;
  const auto calls = raw::gpu_memory(gpu.get_instance_proc_addr(), gpu.instance(), gpu.handle());
  return allocation(maker, size, Looks::no, [=] { return raw::vulkan_alloc(calls, width, height, image_usage); });
}

// --- Its steps -------------------------------------------------------------------------------------------------------

constexpr std::size_t page = 4096;  // bytes

/// Buffers that raw calls have brought to some step.
class Stock {
 public:
  Stock(std::function<int()> make, std::size_t bytes) : make_(std::move(make)), bytes_(bytes) {}
  Stock(const Stock&) = delete;
  Stock& operator=(const Stock&) = delete;
  ~Stock() { clear(); }

  void clear() {
    while (!maps_.empty()) unmap();
    while (!fds_.empty()) close();
  }
  // Each of these functions does one buffer:
  void make() {
    fds_.push_back(make_());
    require(fds_.back() >= 0, "raw allocation");
  }
  void map() {
    maps_.push_back(raw::map(fds_[maps_.size()], bytes_));
    require(maps_.back() != MAP_FAILED, "mmap");
  }
  void touch() {
    for (std::size_t at = 0; at < bytes_; at += page) static_cast<volatile char*>(maps_[next_])[at] = 1;
    next_ = (next_ + 1) % maps_.size();
  }
  void zero() {
    std::memset(maps_[next_], 0, bytes_);
    next_ = (next_ + 1) % maps_.size();
  }
  void unmap() {
    ::munmap(maps_.back(), bytes_);
    maps_.pop_back();
    next_ = 0;
  }
  void close() {
    ::close(fds_.back());
    fds_.pop_back();
  }

 private:
  std::function<int()> make_;
  std::size_t bytes_;
  std::vector<int> fds_;
  std::vector<void*> maps_;
  std::size_t next_ = 0;
};

using Step = void (Stock::*)();

/// @p step, on buffers that have gone through the steps in @p before.
Way step_way(const std::shared_ptr<Stock>& stock, Step step, std::vector<Step> before) {
  const auto prepare = [stock, before = std::move(before)](int times) {
    stock->clear();
    for (const Step one : before) {
      for (int i = 0; i < times; ++i) ((*stock).*one)();
    }
  };
  const auto run = [stock, step](int times) {
    for (int i = 0; i < times; ++i) ((*stock).*step)();
  };
  return {"raw", run, prepare};
}

void add_steps(std::vector<Operation>& operations, const std::string& name, int batch,
               const std::shared_ptr<Stock>& stock) {
  const auto add = [&](const char* step, Step run, std::vector<Step> before) {
    operations.push_back(
        {.name = name + "/" + step, .batch = batch, .ways = {step_way(stock, run, std::move(before))}});
  };
  add("alloc", &Stock::make, {});
  add("map", &Stock::map, {&Stock::make});
  add("touch", &Stock::touch, {&Stock::make, &Stock::map});
  add("zero", &Stock::zero, {&Stock::make, &Stock::map, &Stock::touch});
  add("unmap", &Stock::unmap, {&Stock::make, &Stock::map, &Stock::touch});
  add("close", &Stock::close, {&Stock::make});
}

}  // namespace

std::vector<Operation> allocations(const Machine& machine, std::span<const Sized> sizes) {
  std::vector<Operation> operations;
  for (const Maker& maker : makers(machine)) {
    for (const Sized& size : sizes) {
      if (one_of(maker, size)) operations.push_back(allocation(machine, maker, size));
    }
  }
  return operations;
}

std::vector<Operation> allocation_steps(const Machine& machine, std::span<const Sized> sizes) {
  using enum Maker::Kind;
  std::vector<Operation> operations;
  for (const Maker& maker : makers(machine)) {
    for (const Sized& size : sizes) {
      if (maker.kind == gbm || maker.kind == vulkan || !one_of(maker, size)) continue;
      const auto make = [device = maker.raw, kind = maker.kind, size] {
        if (kind == heap) return raw::heap_alloc(device, size.bytes());
        if (kind == udmabuf) return raw::udmabuf_alloc(device, size.bytes());
        return raw::dumb_alloc(device, size.size.width, size.size.height);
      };
      add_steps(operations, "step/" + maker.name + "/" + size.name, size.batch,
                std::make_shared<Stock>(make, size.bytes()));
    }
  }
  return operations;
}

}  // namespace bench
