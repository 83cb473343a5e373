#include "memory_operations.hpp"
#include "raw/memory.hpp"
#include "repeat.hpp"

#include <dmaflow/cpu_access.hpp>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <sys/mman.h>

namespace bench {
namespace {

using dmaflow::Access;
using dmaflow::Buffer;
using dmaflow::CpuAccess;
using dmaflow::CpuMap;
using dmaflow::Deadline;

constexpr std::uint64_t read_write = DMA_BUF_SYNC_READ | DMA_BUF_SYNC_WRITE;

/// A buffer that is mapped once by the library and once by raw calls.
struct Mapped {
  explicit Mapped(Buffer of)
      : buffer(std::move(of)),
        map(must(CpuMap::create(buffer, Access::read_write))),
        bytes(buffer.size(0)),
        fd(buffer.fd(0)),
        raw(raw::map(fd, bytes)) {
    require(raw != MAP_FAILED, "mmap");
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped() { ::munmap(raw, bytes); }

  Buffer buffer;
  CpuMap map;
  std::size_t bytes;
  int fd;
  void* raw;
  Deadline deadline = Deadline::after(std::chrono::hours(24));
  std::int64_t deadline_ns = std::chrono::nanoseconds(deadline.time().time_since_epoch()).count();
};

/// An access by raw calls on a kept mapping. @p body: called during the access.
template <typename Body>
void access_by_hand(int fd, std::uint64_t flags, Body body) {
  require(raw::sync(fd, DMA_BUF_SYNC_START | flags) == 0, "DMA_BUF_IOCTL_SYNC");
  body();
  require(raw::sync(fd, DMA_BUF_SYNC_END | flags) == 0, "DMA_BUF_IOCTL_SYNC");
}

Operation map_operation(const std::string& maker, const std::shared_ptr<Mapped>& mapped) {
  const auto ours = [mapped] {
    auto access = CpuAccess::begin(mapped->buffer, Access::read_write, mapped->deadline);
    require(access && access->end(), "CpuAccess");
  };
  const auto same = [mapped](bool waits) {
    void* const address = raw::map(mapped->fd, mapped->bytes);
    require(address != MAP_FAILED, "mmap");
    if (waits) require(raw::wait_idle(mapped->fd, POLLOUT, mapped->deadline_ns) == 0, "ppoll");
    access_by_hand(mapped->fd, read_write, [] {});
    ::munmap(address, mapped->bytes);
  };
  return {.name = "access/" + maker + "/map, sync, unmap",
          .batch = 20,
          .ways = {{"dmaflow", repeat(ours)}, {"raw", repeat([same] { same(false); })}, {"raw, checked", repeat([same] {
                                                                                           same(true);
                                                                                         })}}};
}

Operation sync_operation(const std::string& maker, const std::shared_ptr<Mapped>& mapped) {
  const auto ours = [mapped] {
    auto access = CpuAccess::begin(mapped->map, Access::read_write, mapped->deadline);
    require(access && access->end(), "CpuAccess");
  };
  const auto same = [mapped] { access_by_hand(mapped->fd, read_write, [] {}); };
  const auto checked = [mapped] {
    require(raw::wait_idle(mapped->fd, POLLOUT, mapped->deadline_ns) == 0, "ppoll");
    access_by_hand(mapped->fd, read_write, [] {});
  };
  return {.name = "access/" + maker + "/sync",
          .batch = 200,
          .ways = {{"dmaflow", repeat(ours)}, {"raw", repeat(same)}, {"raw, checked", repeat(checked)}}};
}

// --- Bandwidth -------------------------------------------------------------------------------------------------------

/// Reads every byte once.
void read_all(const void* memory, std::size_t bytes) {
  const std::span words(static_cast<const std::uint64_t*>(memory), bytes / sizeof(std::uint64_t));
  std::uint64_t sum = 0;
  for (const std::uint64_t word : words) sum += word;
  asm volatile("" : : "r"(sum) : "memory");
}

/// Writes every byte once, from memory of the same size.
class Writer {
 public:
  explicit Writer(std::size_t bytes) : source_(bytes, 0x5a) {}
  void operator()(void* memory) const { std::memcpy(memory, source_.data(), source_.size()); }

 private:
  std::vector<unsigned char> source_;
};

constexpr int passes = 2;  // in a batch

/// The mapped bytes, const if @p mode only reads.
template <Access mode>
auto* bytes_of(const CpuAccess& access) {
  if constexpr (mode == Access::read) {
    return access.object(0).data();
  } else {
    return access.writable_object(0).data();
  }
}

/// @p work: called with the address of the memory.
template <Access mode, typename Work>
Operation bandwidth(const std::string& name, const std::shared_ptr<Mapped>& mapped, std::uint64_t flags, Work work) {
  const auto kept = [mapped, work] {
    auto access = CpuAccess::begin(mapped->map, mode, mapped->deadline);
    require(access.has_value(), "CpuAccess");
    work(bytes_of<mode>(*access));
    require(access->end().has_value(), "CpuAccess");
  };
  const auto same = [mapped, flags, work] { access_by_hand(mapped->fd, flags, [&] { work(mapped->raw); }); };
  const auto anew = [mapped, work] {
    auto access = CpuAccess::begin(mapped->buffer, mode, mapped->deadline);
    require(access.has_value(), "CpuAccess");
    work(bytes_of<mode>(*access));
    require(access->end().has_value(), "CpuAccess");
  };
  return {.name = name,
          .batch = passes,
          .ways = {{"dmaflow", repeat(kept)}, {"raw", repeat(same)}, {"mapped anew", repeat(anew)}},
          .bytes = mapped->bytes};
}

/// The same on ordinary memory of the process, for comparison.
template <typename Work>
Operation ordinary(const std::string& name, std::size_t bytes, Work work) {
  const auto memory = std::make_shared<std::vector<unsigned char>>(bytes, 1);
  const auto run = [memory, work] { work(memory->data()); };
  return {.name = name, .batch = passes, .ways = {{"raw", repeat(run)}}, .bytes = bytes};
}

/// A mapped frame of each maker.
std::vector<std::pair<std::string, std::shared_ptr<Mapped>>> frames(const Machine& machine, const Sized& size) {
  std::vector<std::pair<std::string, std::shared_ptr<Mapped>>> all;
  for (const Maker& maker : makers(machine)) {
    const Buffer buffer = one_of(maker, size);
    if (buffer) all.emplace_back(maker.name, std::make_shared<Mapped>(buffer));
  }
  return all;
}

}  // namespace

std::vector<Operation> accesses(const Machine& machine) {
  std::vector<Operation> operations;
  for (const auto& [maker, mapped] : frames(machine, full_hd)) {
    operations.push_back(map_operation(maker, mapped));
    operations.push_back(sync_operation(maker, mapped));
  }
  return operations;
}

std::vector<Operation> bandwidths(const Machine& machine) {
  std::vector<Operation> operations;
  const auto add = [&](const std::string& maker, const std::shared_ptr<Mapped>& mapped) {
    const auto read = [bytes = mapped->bytes](const void* memory) { read_all(memory, bytes); };
    const auto write = [writer = std::make_shared<Writer>(mapped->bytes)](void* memory) { (*writer)(memory); };
    operations.push_back(bandwidth<Access::read>("read/" + maker, mapped, DMA_BUF_SYNC_READ, read));
    operations.push_back(bandwidth<Access::write>("write/" + maker, mapped, DMA_BUF_SYNC_WRITE, write));
  };
  for (const auto& [maker, mapped] : frames(machine, full_hd)) add(maker, mapped);
  const std::size_t bytes = full_hd.bytes();
  operations.push_back(ordinary("read/malloc", bytes, [bytes](const void* memory) { read_all(memory, bytes); }));
  operations.push_back(
      ordinary("write/malloc", bytes, [writer = std::make_shared<Writer>(bytes)](void* memory) { (*writer)(memory); }));
  return operations;
}

}  // namespace bench
