#include "memory_machine.hpp"

#include "count_new.hpp"

#include <algorithm>
#include <cstdio>

#include <fcntl.h>

namespace bench {
namespace {

/// The device; if there is none, prints a line with the reason.
template <typename T>
T take(dmaflow::Result<T> opened, const char* what) {
  if (opened) return std::move(*opened);
  leave_out(what, opened.error().message());
  return {};
}

std::vector<std::unique_ptr<dmaflow::kms::Device>> open_cards() {
  std::vector<std::unique_ptr<dmaflow::kms::Device>> cards;
  const auto all = dmaflow::kms::list();
  if (all.empty()) leave_out("display", "no card in /dev/dri");
  for (const auto& card : all) {
    auto device = take(dmaflow::kms::Device::open(card.path), card.path.c_str());
    if (!device) continue;
    const bool is_known =
        std::ranges::any_of(cards, [&](const auto& one) { return one->driver() == device->driver(); });
    if (is_known) {
      leave_out(card.path, "another card of the same driver is measured");
    } else {
      cards.push_back(std::move(device));
    }
  }
  return cards;
}

}  // namespace

void leave_out(const std::string& what, const std::string& why) {
  std::fprintf(stderr, "left out: %s: %s\n", what.c_str(), why.c_str());
}

std::size_t heap_allocations() { return dmaflow::test::allocations; }

Machine open_machine() {
  Machine machine;
  machine.heap = take(dmaflow::heap::Allocator::open("system"), "heap");
  if (machine.heap) machine.raw_heap = dmaflow::Fd::adopt(::open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC));
  machine.udmabuf = take(dmaflow::udmabuf::Allocator::open(), "udmabuf");
  if (machine.udmabuf) machine.raw_udmabuf = dmaflow::Fd::adopt(::open("/dev/udmabuf", O_RDWR | O_CLOEXEC));
  machine.cards = open_cards();
  machine.gbm = take(dmaflow::gbm::Device::open(), "GBM");
  machine.gpu = take(dmaflow::vulkan::Device::create(), "Vulkan");
  return machine;
}

std::vector<Maker> makers(const Machine& machine) {
  using enum Maker::Kind;
  std::vector<Maker> all;
  if (machine.heap) all.push_back({heap, "heap", machine.heap.get(), machine.raw_heap.get()});
  if (machine.udmabuf) all.push_back({udmabuf, "udmabuf", machine.udmabuf.get(), machine.raw_udmabuf.get()});
  for (const auto& card : machine.cards) {
    if (card->allocator() == nullptr) continue;
    all.push_back({dumb, "dumb " + std::string(card->driver()), card->allocator(), card->fd()});
  }
  if (machine.gbm) {
    all.push_back({gbm, "GBM " + std::string(machine.gbm->driver()), &machine.gbm->allocator(), machine.gbm->fd()});
  }
  if (machine.gpu) all.push_back({vulkan, "Vulkan", &machine.gpu->allocator()});
  return all;
}

dmaflow::Buffer one_of(const Maker& maker, const Sized& size) {
  const auto made = maker.allocator->allocate(size.request());
  if (made) return made->front();
  leave_out(maker.name + ", " + size.name, made.error().message());
  return {};
}

}  // namespace bench
