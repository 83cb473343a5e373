#include "memory_operations.hpp"
#include "raw/camera_to_display.hpp"
#include "raw/gpu_memory.hpp"
#include "repeat.hpp"

#include <dmaflow/pool.hpp>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace bench {
namespace {

using dmaflow::Buffer;
using dmaflow::Fd;

constexpr int batch = 20;

/// Buffers that no device has imported, all on one dma-buf, for first imports. The raw ways use one descriptor each. No
/// import of that dma-buf is kept, because GBM would find its handle. imported() has another dma-buf.
class Fresh {
 public:
  Fresh(Buffer memory, Buffer imported) : memory_(std::move(memory)), imported_(std::move(imported)) {}
  Fresh(const Fresh&) = delete;
  Fresh& operator=(const Fresh&) = delete;
  ~Fresh() { clear(); }

  void make_buffers(int times) {
    clear();
    for (int i = 0; i < times; ++i) {
      Fd fd = must(Fd::dup_of(memory_.fd(0)));
      buffers_.push_back(must(Buffer::create(memory_.layout(), fd, {})));
    }
  }
  void make_descriptors(int times) {
    clear();
    for (int i = 0; i < times; ++i) descriptors_.push_back(must(Fd::dup_of(memory_.fd(0))).release());
  }
  [[nodiscard]] Buffer next_buffer() { return std::move(buffers_[next_++]); }
  [[nodiscard]] int next_descriptor() { return descriptors_[next_++]; }

  [[nodiscard]] const Buffer& imported() const { return imported_; }
  [[nodiscard]] dmaflow::Size size() const { return memory_.layout().size; }
  [[nodiscard]] std::uint32_t stride() const { return memory_.layout().planes[0].stride; }

 private:
  void clear() {
    for (; next_ < descriptors_.size(); ++next_) ::close(descriptors_[next_]);
    descriptors_.clear();
    buffers_.clear();
    next_ = 0;
  }
  Buffer memory_;
  Buffer imported_;
  std::vector<Buffer> buffers_;
  std::vector<int> descriptors_;
  std::size_t next_ = 0;
};

/// @p import: imports a buffer with the library. Destroying the buffer closes its descriptor and ends its import.
template <typename Import>
Way first_by_library(const std::shared_ptr<Fresh>& fresh, Import import) {
  const auto ours = [fresh, import] {
    const Buffer buffer = fresh->next_buffer();
    import(buffer);
  };
  return {"dmaflow", repeat(ours), [fresh](int times) { fresh->make_buffers(times); }};
}

/// @p import: imports a descriptor by raw calls and ends the import.
template <typename Import>
Way first_by_hand(const char* name, const std::shared_ptr<Fresh>& fresh, Import import) {
  const auto same = [fresh, import] {
    const int fd = fresh->next_descriptor();
    import(fd);
    ::close(fd);
  };
  return {name, repeat(same), [fresh](int times) { fresh->make_descriptors(times); }};
}

template <typename Import>
Operation cached(const std::string& device, const std::shared_ptr<Fresh>& fresh, Import import) {
  const auto ours = [fresh, import] { import(fresh->imported()); };
  return {.name = "import/" + device + "/cached", .batch = 1000, .ways = {{"dmaflow", repeat(ours)}}};
}

/// Memory that @p import accepts: the heap's, else that of the device's own allocator.
template <typename Import>
std::shared_ptr<Fresh> importable(const Machine& machine, const std::string& device, dmaflow::Allocator* own,
                                  dmaflow::Size size, Import import) {
  const dmaflow::Request request{.size = size, .format = dmaflow::formats::xrgb8888, .count = 2};
  std::string why = "there is no heap";
  for (dmaflow::Allocator* const allocator : {static_cast<dmaflow::Allocator*>(machine.heap.get()), own}) {
    if (allocator == nullptr) continue;
    auto made = allocator->allocate(request);
    if (!made) {
      why = made.error().message();
      continue;
    }
    const auto imported = import(made->back());
    if (imported) return std::make_shared<Fresh>(made->front(), made->back());
    why = imported.error().message();
  }
  leave_out("import/" + device, why);
  return nullptr;
}

// --- Displays --------------------------------------------------------------------------------------------------------

std::uint32_t monitor_of(int card) {
  drmModeRes* resources = drmModeGetResources(card);
  std::uint32_t found = 0;
  for (int i = 0; resources != nullptr && i < resources->count_connectors; ++i) {
    drmModeConnector* one = drmModeGetConnectorCurrent(card, resources->connectors[i]);
    if (one == nullptr) continue;
    const bool is_monitor =
        one->connection == DRM_MODE_CONNECTED && one->connector_type != DRM_MODE_CONNECTOR_WRITEBACK;
    if (is_monitor && found == 0) found = one->connector_id;
    drmModeFreeConnector(one);
  }
  drmModeFreeResources(resources);
  return found;
}

std::uint32_t mode_blob(int card, std::uint32_t connector, dmaflow::Size size) {
  drmModeConnector* monitor = drmModeGetConnectorCurrent(card, connector);
  require(monitor != nullptr, "DRM_IOCTL_MODE_GETCONNECTOR");
  std::uint32_t blob = 0;
  for (int i = 0; i < monitor->count_modes && blob == 0; ++i) {
    const drmModeModeInfo& mode = monitor->modes[i];
    if (mode.hdisplay != size.width || mode.vdisplay != size.height) continue;
    require(drmModeCreatePropertyBlob(card, &mode, sizeof mode, &blob) == 0, "DRM_IOCTL_MODE_CREATEPROPBLOB");
  }
  drmModeFreeConnector(monitor);
  require(blob != 0, "the monitor has no such mode");
  return blob;
}

/// The test commit that the library makes for each framebuffer, by hand: on the whole plane, in the mode of that size.
raw::TestCommit test_commit(int card, const dmaflow::kms::Output& output, const dmaflow::kms::Plane& plane,
                            dmaflow::Size size) {
  const std::uint32_t crtc = output.crtc_id();
  const std::uint32_t connector = monitor_of(card);
  raw::TestCommit commit;
  const auto set = [&](std::uint32_t object, std::uint32_t type, const char* name, std::uint64_t value) {
    commit.set(object, raw::property(card, object, type, name), value);
  };
  set(connector, DRM_MODE_OBJECT_CONNECTOR, "CRTC_ID", crtc);
  set(crtc, DRM_MODE_OBJECT_CRTC, "MODE_ID", mode_blob(card, connector, size));
  set(crtc, DRM_MODE_OBJECT_CRTC, "ACTIVE", 1);
  const std::uint32_t object = plane.plane_id();
  commit.set_framebuffer(object, raw::property(card, object, DRM_MODE_OBJECT_PLANE, "FB_ID"));
  const std::pair<const char*, std::uint64_t> values[] = {{"CRTC_ID", crtc},
                                                          {"SRC_X", 0},
                                                          {"SRC_Y", 0},
                                                          {"SRC_W", std::uint64_t{size.width} << 16U},
                                                          {"SRC_H", std::uint64_t{size.height} << 16U},
                                                          {"CRTC_X", 0},
                                                          {"CRTC_Y", 0},
                                                          {"CRTC_W", size.width},
                                                          {"CRTC_H", size.height}};
  for (const auto& [name, value] : values) set(object, DRM_MODE_OBJECT_PLANE, name, value);
  return commit;
}

/// A plane that shows nothing, configured for frames in the size of its monitor's first mode.
dmaflow::Result<dmaflow::kms::Plane*> prepared_plane(dmaflow::kms::Output& output, dmaflow::Size size) {
  auto plane = output.plane({.may_show_to_try = false});
  if (!plane) return plane;
  dmaflow::StreamConfig config;
  config.layout = must(dmaflow::Layout::linear(dmaflow::formats::xrgb8888, size));
  if (auto configured = (*plane)->set_input(config); !configured) return std::unexpected(configured.error());
  return plane;
}

void add_display(std::vector<Operation>& operations, const Machine& machine, dmaflow::kms::Device& device) {
  const std::string name = "KMS " + std::string(device.driver());
  const auto output = device.output();
  if (!output || (*output)->modes().empty()) {
    return leave_out("import/" + name, output ? "no modes" : output.error().message());
  }
  const dmaflow::Size size = (*output)->modes().front().size;
  const auto plane = prepared_plane(**output, size);
  if (!plane) return leave_out("import/" + name, plane.error().message());
  const auto import = [plane = *plane](const Buffer& buffer) { return plane->import(buffer); };
  const auto fresh = importable(machine, name, device.allocator(), size, import);
  if (!fresh) return;

  const auto ours = [import](const Buffer& buffer) { require(import(buffer).has_value(), "Plane::import"); };
  const int card = device.fd();
  const bool with_modifier = device.takes_modifiers();
  const auto by_hand = [card, size, with_modifier, stride = fresh->stride()](int fd) {
    std::uint32_t id = 0;
    const int added = raw::add_framebuffer(card, fd, size.width, size.height, stride, with_modifier, id);
    require(added == 0, "raw framebuffer");
    return id;
  };
  const auto same = [card, by_hand](int fd) { raw::remove_framebuffer(card, by_hand(fd)); };
  const auto commit = std::make_shared<raw::TestCommit>(test_commit(card, **output, **plane, size));
  const auto tried = [card, by_hand, commit](int fd) {
    const std::uint32_t id = by_hand(fd);
    require(commit->try_with(card, id) == 0, "raw test of a framebuffer");
    raw::remove_framebuffer(card, id);
  };
  operations.push_back({.name = "import/" + name + "/first",
                        .batch = batch,
                        .ways = {first_by_library(fresh, ours), first_by_hand("raw", fresh, same),
                                 first_by_hand("raw, tried", fresh, tried)}});
  operations.push_back(cached(name, fresh, ours));
}

// --- GPUs ------------------------------------------------------------------------------------------------------------

void add_gbm(std::vector<Operation>& operations, const Machine& machine) {
  auto& device = *machine.gbm;
  const std::string name = "GBM " + std::string(device.driver());
  const auto import = [&device](const Buffer& buffer) { return device.import(buffer); };
  const auto fresh = importable(machine, name, &device.allocator(), full_hd.size, import);
  if (!fresh) return;
  const auto ours = [import](const Buffer& buffer) { require(import(buffer).has_value(), "gbm::Device::import"); };
  const auto same = [gbm = device.get(), size = fresh->size(), stride = fresh->stride()](int fd) {
    gbm_bo* const bo = raw::gbm_import(gbm, fd, size.width, size.height, stride);
    require(bo != nullptr, "gbm_bo_import");
    gbm_bo_destroy(bo);
  };
  operations.push_back({.name = "import/" + name + "/first",
                        .batch = batch,
                        .ways = {first_by_library(fresh, ours), first_by_hand("raw", fresh, same)}});
  operations.push_back(cached(name, fresh, ours));
}

void add_vulkan(std::vector<Operation>& operations, const Machine& machine) {
  auto& gpu = *machine.gpu;
  const auto import = [&gpu](const Buffer& buffer) { return gpu.import_image(buffer, VK_IMAGE_USAGE_SAMPLED_BIT); };
  const auto fresh = importable(machine, "Vulkan", &gpu.allocator(), full_hd.size, import);
  if (!fresh) return;
  const auto ours = [import](const Buffer& buffer) {
    require(import(buffer).has_value(), "vulkan::Device::import_image");
  };
  const auto calls = raw::gpu_memory(gpu.get_instance_proc_addr(), gpu.instance(), gpu.handle());
  const auto same = [calls, size = fresh->size(), stride = fresh->stride()](int fd) {
    raw::ImportedImage image{};
    require(raw::vulkan_import(calls, fd, size.width, size.height, stride, VK_IMAGE_USAGE_SAMPLED_BIT, image) == 0,
            "raw image");
    raw::end_import(calls, image);
  };
  operations.push_back({.name = "import/Vulkan/first",
                        .batch = batch,
                        .ways = {first_by_library(fresh, ours), first_by_hand("raw", fresh, same)}});
  operations.push_back(cached("Vulkan", fresh, ours));
}

}  // namespace

std::vector<Operation> imports(const Machine& machine) {
  std::vector<Operation> operations;
  for (const auto& card : machine.cards) add_display(operations, machine, *card);
  if (machine.gbm) add_gbm(operations, machine);
  if (machine.gpu) add_vulkan(operations, machine);
  return operations;
}

std::vector<Operation> holds(const Machine& machine) {
  const auto all = makers(machine);
  if (all.empty()) return {};
  dmaflow::Request request = kib64.request();
  request.count = 4;
  auto made = all.front().allocator->allocate(request);
  if (!made) {
    leave_out("hold", made.error().message());
    return {};
  }
  const auto set = must(dmaflow::HoldSet::create(*made));
  const auto pool = std::make_shared<dmaflow::Pool>(must(dmaflow::Pool::create(std::move(*made))));
  const auto acquire = [pool] { require(pool->acquire().has_value(), "Pool::acquire"); };
  const auto lend = [set] {
    set->lend(0, {})->release();
    require(set->take_returned().has_value(), "HoldSet::take_returned");
  };
  return {{.name = "hold/pool", .batch = 1000, .ways = {{"dmaflow", repeat(acquire)}}},
          {.name = "hold/set", .batch = 1000, .ways = {{"dmaflow", repeat(lend)}}}};
}

}  // namespace bench
