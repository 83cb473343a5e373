#include "convert_impl.hpp"

#include "allocator.hpp"
#include "log.hpp"

#include <dmaflow/implicit_fences.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace dmaflow::vulkan {
namespace {

constexpr auto gpu_patience = std::chrono::seconds(2);
constexpr std::uint32_t group = 8;  // the shader's local size

}  // namespace

Size Convert::Impl::target_size() const noexcept {
  return options.size.value_or(turned(input.layout.size, options.rotation));
}

Convert::Convert(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Convert::~Convert() = default;

Result<std::unique_ptr<Convert>> Convert::create(Device& device, const ConvertOptions& options) {
  const auto invalid = [&] { return Error::os(EINVAL, "vulkan::Convert::create", device.name()); };
  if (options.in_flight < 1 || options.in_flight > Impl::most_in_flight) {
    return std::unexpected(
        invalid().detail("in_flight is %u; 1 to %u is possible", options.in_flight, Impl::most_in_flight));
  }
  if (options.formats.empty()) return std::unexpected(invalid().detail("no format to give"));
  if (options.size && (options.size->width == 0 || options.size->height == 0 || options.size->width > max_dimension ||
                       options.size->height > max_dimension)) {
    return std::unexpected(invalid().detail("%ux%u is no size", options.size->width, options.size->height));
  }
  if (options.overlay) {
    const Size size = options.overlay->size;
    const std::uint64_t bytes = std::uint64_t{4} * size.width * size.height;
    if (bytes == 0 || bytes != options.overlay->rgba.size()) {
      return std::unexpected(invalid().detail("an overlay of %ux%u is %llu bytes, not %zu", size.width, size.height,
                                              static_cast<unsigned long long>(bytes), options.overlay->rgba.size()));
    }
  }
  if (!device.impl_->storage_write_without_format) {
    return std::unexpected(
        Error::os(ENOTSUP, "vulkan::Convert::create", device.name())
            .detail("the device, or how it was created, has no shaderStorageImageWriteWithoutFormat"));
  }
  auto impl = std::make_unique<Impl>(*device.impl_, device);
  impl->options = options;
  impl->name = "convert on " + std::string(device.name());
  return std::unique_ptr<Convert>(new Convert(std::move(impl)));  // private constructor
}

std::string_view Convert::name() const noexcept { return impl_->name; }
const StreamConfig& Convert::output() const noexcept { return impl_->output; }
std::uint32_t Convert::max_held() const noexcept { return impl_->options.in_flight + 1; }
std::uint32_t Convert::min_buffers() const noexcept { return impl_->options.in_flight; }
Allocator* Convert::output_allocator() noexcept { return &impl_->device.allocator(); }
Sampling Convert::sampling() const noexcept { return impl_->reading.by; }
const Histogram& Convert::gpu_time() const noexcept { return impl_->gpu_time; }
const Histogram& Convert::waited() const noexcept { return impl_->waited; }
const Histogram& Convert::turnaround() const noexcept { return impl_->turnaround; }

// --- Negotiation -----------------------------------------------------------------------------------------------------

/// How a stream is read, if it can be.
Result<Reading> Convert::Impl::reading_of(const StreamConfig& config) const {
  const Layout& layout = config.layout;
  const auto refuse = [&](int code) { return Error::os(code, "vulkan::Convert::check_input", name); };
  if (auto alive = gpu.alive("vulkan::Convert::check_input"); !alive) return std::unexpected(alive.error());
  if (layout.modifier.is_implicit()) {
    return std::unexpected(refuse(ENOTSUP).detail("modifier INVALID: Vulkan must be told the arrangement"));
  }
  const std::uint32_t limit = gpu.max_image;
  const Size target = options.size.value_or(turned(layout.size, options.rotation));
  if (std::max({layout.size.width, layout.size.height, target.width, target.height}) > limit) {
    return std::unexpected(refuse(EINVAL).detail("images of this device are at most %u pixels a side", limit));
  }
  return find_reading(gpu, layout, options.sampling);
}

Result<void> Convert::check_input(const StreamConfig& config) {
  auto reading = impl_->reading_of(config);
  return reading ? Result<void>() : std::unexpected(reading.error());
}

Result<void> Convert::set_input(const StreamConfig& config) {
  if (impl_->started) return std::unexpected(Error::os(EBUSY, "vulkan::Convert::set_input", impl_->name));
  auto reading = impl_->reading_of(config);
  if (!reading) return std::unexpected(reading.error());
  impl_->input = config;
  impl_->reading = *reading;
  return {};
}

Result<void> Convert::import(const Buffer& buffer) {
  auto reading = find_reading(impl_->gpu, buffer.layout(), impl_->options.sampling);
  if (!reading) return std::unexpected(reading.error());
  for (std::uint32_t i = 0; i < reading->source.plane_count; ++i) {
    auto image = import_source(impl_->gpu, buffer, *reading, i);
    if (!image) return std::unexpected(image.error());
  }
  return {};
}

// The GPU's own arrangements before LINEAR: both the GPU and the display are faster with them.
Result<std::vector<StreamConfig>> Convert::offers(const StreamRequest& request) {
  const Size size = request.size.value_or(impl_->target_size());
  std::vector<StreamConfig> offers;
  std::string asked;
  for (const PixelFormat format : impl_->options.formats) {
    if (!request.formats.empty() && std::ranges::find(request.formats, format) == request.formats.end()) continue;
    asked.append(asked.empty() ? "" : ", ").append(format.name());
    auto all = impl_->device.support(format, VK_IMAGE_USAGE_STORAGE_BIT);
    std::ranges::stable_sort(all, {}, [](const FormatSupport& one) { return one.modifier.is_linear(); });
    for (const FormatSupport& one : all) {
      if (!one.importable || one.max_size.width < size.width || one.max_size.height < size.height) continue;
      StreamConfig offer{.interval = impl_->input.interval};
      offer.layout = {.size = size, .format = format, .modifier = one.modifier, .plane_count = one.plane_count};
      offer.color = with_defaults(impl_->input.color, impl_->input.layout.format, impl_->input.layout.size);
      offer.color.matrix = ColorInfo::Matrix::identity;
      offer.color.range = ColorInfo::Range::full;
      offers.push_back(offer);
    }
  }
  if (offers.empty()) {
    return std::unexpected(Error::os(EINVAL, "vulkan::Convert::offers", impl_->name)
                               .detail("the device writes no %ux%u images of %s", size.width, size.height,
                                       asked.empty() ? "the formats wanted" : asked.c_str()));
  }
  return offers;
}

Result<void> Convert::set_output(const StreamConfig& config) {
  if (impl_->started) return std::unexpected(Error::os(EBUSY, "vulkan::Convert::set_output", impl_->name));
  StreamConfig wanted = config;
  if (wanted.layout.modifier.is_linear() && wanted.layout.planes[0].stride == 0) {
    auto layout = Layout::linear(wanted.layout.format, wanted.layout.size, wanted.constraints);
    if (!layout) return std::unexpected(layout.error());
    wanted.layout = *layout;
  }
  impl_->output = wanted;
  return {};
}

Result<void> Convert::try_output(const Buffer& buffer) {
  auto image = impl_->device.import_image(buffer, VK_IMAGE_USAGE_STORAGE_BIT);
  if (!image) return std::unexpected(image.error());
  return {};
}

// --- Start -----------------------------------------------------------------------------------------------------------

Result<void> Convert::start(std::span<const Buffer> inputs, std::vector<Buffer> outputs) {
  if (impl_->started) return std::unexpected(Error::os(EBUSY, "vulkan::Convert::start", impl_->name));
  if (auto alive = impl_->gpu.alive("vulkan::Convert::start"); !alive) return alive;
  auto started = impl_->start(inputs, std::move(outputs));
  if (!started) impl_->stop();
  return started;
}

Result<void> Convert::Impl::start(std::span<const Buffer> given, std::vector<Buffer> made) {
  started = true;
  gpu_time = {};
  turnaround = {};
  waited = {};
  if (auto ready = start_pools(); !ready) return ready;
  if (auto ready = start_shader(made.size()); !ready) return ready;
  inputs.reserve(most_inputs);
  outputs.reserve(made.size());
  for (const Buffer& buffer : given) {
    if (auto filled_in = fill(inputs.emplace_back(), buffer); !filled_in) return filled_in;
  }
  for (const Buffer& buffer : made) {
    if (auto added = add_output(buffer); !added) return added;
  }
  auto targets = Pool::create(std::move(made));
  if (!targets) return std::unexpected(targets.error());
  pool.emplace(std::move(*targets));
  if (auto ready = start_slots(); !ready) return ready;
  return record_all();
}

Result<void> Convert::Impl::start_pools() {
  const VkCommandPoolCreateInfo info{.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                     .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                     .queueFamilyIndex = gpu.queue_family};
  return gpu.checked(gpu.vk.CreateCommandPool(gpu.device, &info, nullptr, &commands), "vkCreateCommandPool");
}

Result<void> Convert::Impl::start_shader(std::size_t output_count) {
  const bool by_sampler = reading.by == Sampling::sampler;
  overlay = std::make_unique<OverlayImage>(gpu);  // a descriptor needs one, even if nothing is drawn on top
  const Picture nothing{.size = {1, 1}, .rgba = {0, 0, 0, 0}};
  if (auto made = overlay->create(options.overlay.value_or(nothing), commands, Deadline::after(gpu_patience)); !made)
    return made;
  if (by_sampler) {
    sampler = std::make_unique<YuvSampler>(gpu);
    if (auto made = sampler->create(reading); !made) return made;
  }
  shader = std::make_unique<ConvertShader>(gpu);
  const Size source_size = input.layout.size;
  const Placement whole{.visible = {0, 0, source_size.width, source_size.height},
                        .target = output.layout.size,
                        .fit = options.fit,
                        .rotation = options.rotation};
  return shader->create({.source = reading.source,
                         .always_scales = scales(whole),
                         .has_overlay = options.overlay.has_value(),
                         .whole = by_sampler ? sampler->sampler() : VK_NULL_HANDLE,
                         .whole_descriptors = reading.whole.sampler_descriptors},
                        most_inputs, static_cast<std::uint32_t>(output_count));
}

/// Assigns a buffer to a place. On an error, clear() or stop() destroys what was created so far.
Result<void> Convert::Impl::fill(Input& place, const Buffer& buffer) {
  place.buffer = buffer;
  for (std::uint32_t i = 0; i < reading.source.plane_count; ++i) {
    auto image = import_source(gpu, buffer, reading, i);
    if (!image) return std::unexpected(image.error());
    auto view = sampler != nullptr ? sampler->view(*image) : make_view(gpu, *image, reading.source.orders[i]);
    if (!view) return std::unexpected(view.error());
    place.images[i] = *image;
    place.views[i] = *view;
  }
  auto set = shader->describe_input(std::span(place.views).first(reading.source.plane_count), place.set);
  if (!set) return std::unexpected(set.error());
  place.set = *set;
  return {};
}

/// The GPU must not be using it. Its descriptor set and its command buffers are kept for the next buffer.
void Convert::Impl::clear(Input& place) const noexcept {
  for (VkImageView& view : place.views)
    gpu.vk.DestroyImageView(gpu.device, std::exchange(view, VK_NULL_HANDLE), nullptr);
  place.images = {};
  place.buffer = {};
}

Result<void> Convert::Impl::add_later(const Buffer& buffer) {
  if (std::ranges::find(inputs, buffer, &Input::buffer) != inputs.end()) return {};
  auto place = std::ranges::find_if_not(inputs, [](const Input& one) { return static_cast<bool>(one.buffer); });
  const bool is_new = place == inputs.end();
  if (is_new) {
    if (inputs.size() == most_inputs) {
      return std::unexpected(Error::os(ENOBUFS, "vulkan::Convert::add_buffer", name)
                                 .detail("it has %u input buffers, the most there may be", most_inputs));
    }
    if (auto made = allocate_pairs(outputs.size()); !made) return made;
    inputs.emplace_back();
    place = std::prev(inputs.end());
  }
  auto done = fill(*place, buffer);
  const Size size = input.layout.size;
  const auto first = static_cast<std::uint32_t>(static_cast<std::size_t>(place - inputs.begin()) * outputs.size());
  for (std::uint32_t i = first; done && i < first + outputs.size(); ++i) {
    done = record(i, {0, 0, size.width, size.height}, input.color);
  }
  if (!done) clear(*place);
  return done;
}

void Convert::Impl::remove_later(const Buffer& buffer) noexcept {
  const auto place = std::ranges::find(inputs, buffer, &Input::buffer);
  if (place == inputs.end()) return;
  if (auto idle = wait_idle(Deadline::after(gpu_patience)); !idle) {
    detail::log(LogLevel::warning, "%s: a buffer that left is kept, for the GPU is still at work: %s", name.c_str(),
                idle.error().message().c_str());
    return;
  }
  clear(*place);
}

Result<void> Convert::add_buffer(const Buffer& buffer) {
  if (!impl_->started) return import(buffer);
  if (auto alive = impl_->gpu.alive("vulkan::Convert::add_buffer"); !alive) return alive;
  return impl_->add_later(buffer);
}

void Convert::remove_buffer(const Buffer& buffer) noexcept {
  if (impl_->started && impl_->gpu.device != VK_NULL_HANDLE) impl_->remove_later(buffer);
}

Result<void> Convert::Impl::add_output(const Buffer& buffer) {
  Output& made = outputs.emplace_back();
  made.buffer = buffer;
  auto image = device.import_image(buffer, VK_IMAGE_USAGE_STORAGE_BIT);
  if (!image) return std::unexpected(image.error());
  made.image = *image;
  auto view = make_view(gpu, *image, {0, 1, 2, 3});
  if (!view) return std::unexpected(view.error());
  made.view = *view;
  auto set = shader->describe_output(*view, overlay->view());
  if (!set) return std::unexpected(set.error());
  made.set = *set;
  return {};
}

Result<void> Convert::Impl::start_slots() {
  const VkFenceCreateInfo info{.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
  for (std::uint32_t i = 0; i < options.in_flight; ++i) {
    Slot& slot = slots[i];
    if (auto made = gpu.checked(gpu.vk.CreateFence(gpu.device, &info, nullptr, &slot.fence), "vkCreateFence"); !made) {
      return made;
    }
    if (gpu_waits()) {
      auto semaphore = device.create_semaphore();
      if (!semaphore) return std::unexpected(semaphore.error());
      slot.acquired = *semaphore;
    }
    if (gpu.exports_sync_fd) {
      auto semaphore = device.create_semaphore();
      if (!semaphore) return std::unexpected(semaphore.error());
      slot.done = *semaphore;
    }
  }
  return {};
}

Result<void> Convert::Impl::record_all() {
  const auto count = static_cast<std::uint32_t>(inputs.size() * outputs.size());
  if (auto made = allocate_pairs(count); !made) return made;
  if (options.measure && gpu.timestamp_period > 0) {
    const VkQueryPoolCreateInfo info{.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                     .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                     .queryCount = 2 * most_inputs * static_cast<std::uint32_t>(outputs.size())};
    if (auto made = gpu.checked(gpu.vk.CreateQueryPool(gpu.device, &info, nullptr, &times), "vkCreateQueryPool");
        !made) {
      return made;
    }
  }
  const Size size = input.layout.size;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (auto done = record(i, {0, 0, size.width, size.height}, input.color); !done) return done;
  }
  return {};
}

/// Allocates command buffers for @p more pairs.
Result<void> Convert::Impl::allocate_pairs(std::size_t more) {
  const auto count = static_cast<std::uint32_t>(more);
  const VkCommandBufferAllocateInfo wanted{.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                           .commandPool = commands,
                                           .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                           .commandBufferCount = count};
  std::vector<VkCommandBuffer> buffers(count);
  if (auto made =
          gpu.checked(gpu.vk.AllocateCommandBuffers(gpu.device, &wanted, buffers.data()), "vkAllocateCommandBuffers");
      !made) {
    return made;
  }
  for (VkCommandBuffer buffer : buffers) pairs.push_back({.commands = buffer});
  return {};
}

Result<void> Convert::Impl::record(std::uint32_t pair, const Rect& visible, const ColorInfo& color) {
  const Functions& vk = gpu.vk;
  Pair& record = pairs[pair];
  const Input& from = inputs[pair / outputs.size()];
  const Output& to = outputs[pair % outputs.size()];
  const Size size = input.layout.size;
  Parameters parameters;
  parameters.size = {static_cast<std::int32_t>(size.width), static_cast<std::int32_t>(size.height)};
  const ColorMatrix matrix = color_matrix(input.layout.format, size, color);
  for (std::size_t row = 0; row < matrix.size(); ++row) {
    std::ranges::transform(matrix[row], parameters.matrix[row].begin(), [](double v) { return static_cast<float>(v); });
  }
  const Size target = output.layout.size;
  const Placement placement{.visible = visible, .target = target, .fit = options.fit, .rotation = options.rotation};
  place(placement, parameters);
  if (options.overlay) {
    const Picture& picture = *options.overlay;
    parameters.picture = {picture.x, picture.y, picture.x + static_cast<std::int32_t>(picture.size.width),
                          picture.y + static_cast<std::int32_t>(picture.size.height)};
  }

  std::array<VkImageMemoryBarrier, 4> barriers{};
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < reading.source.plane_count; ++i) {
    barriers[count++] =
        device.acquire(from.images[i], VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL, VK_ACCESS_SHADER_READ_BIT);
  }
  barriers[count++] = device.acquire_to_overwrite(to.image, VK_IMAGE_LAYOUT_GENERAL, VK_ACCESS_SHADER_WRITE_BIT);

  // An output may come back before the display has read it, while this work is still executing for an earlier frame.
  const VkCommandBufferBeginInfo begin{.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                       .flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT};
  if (auto begun = gpu.checked(vk.BeginCommandBuffer(record.commands, &begin), "vkBeginCommandBuffer"); !begun) {
    return begun;
  }
  vk.CmdPipelineBarrier(record.commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0,
                        0, nullptr, 0, nullptr, count, barriers.data());
  if (times != VK_NULL_HANDLE) {  // after the barrier, so that the wait for the frame is not counted
    vk.CmdResetQueryPool(record.commands, times, 2 * pair, 2);
    vk.CmdWriteTimestamp(record.commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, times, 2 * pair);
  }
  vk.CmdBindPipeline(record.commands, VK_PIPELINE_BIND_POINT_COMPUTE, shader->pipeline(scales(placement)));
  const std::array sets{from.set, to.set};
  vk.CmdBindDescriptorSets(record.commands, VK_PIPELINE_BIND_POINT_COMPUTE, shader->layout(), 0,
                           static_cast<std::uint32_t>(sets.size()), sets.data(), 0, nullptr);
  vk.CmdPushConstants(record.commands, shader->layout(), VK_SHADER_STAGE_COMPUTE_BIT, 0, sizeof parameters,
                      &parameters);
  vk.CmdDispatch(record.commands, (target.width + group - 1) / group, (target.height + group - 1) / group, 1);
  for (std::uint32_t i = 0; i < reading.source.plane_count; ++i) {
    barriers[i] = device.release(from.images[i], VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL, 0);
  }
  barriers[reading.source.plane_count] = device.release(to.image, VK_IMAGE_LAYOUT_GENERAL, VK_ACCESS_SHADER_WRITE_BIT);
  vk.CmdPipelineBarrier(record.commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, 0,
                        0, nullptr, 0, nullptr, count, barriers.data());
  if (times != VK_NULL_HANDLE) {
    vk.CmdWriteTimestamp(record.commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, times, 2 * pair + 1);
  }
  record.visible = visible;
  record.color = color;
  return gpu.checked(vk.EndCommandBuffer(record.commands), "vkEndCommandBuffer");
}

// --- Frames ----------------------------------------------------------------------------------------------------------

// False while all slots are busy: a frame would only become outdated here, and its holder may still get a newer one.
bool Convert::ready() const noexcept {
  return impl_->started && !impl_->pending && !impl_->finished && !impl_->slots[impl_->next_slot].busy;
}

// Fully inlined: bench/README.md records what a frame costs.
[[gnu::flatten]] Result<void> Convert::accept(Frame frame) {
  if (auto alive = impl_->gpu.alive("vulkan::Convert::accept"); !alive) return alive;
  if (auto reclaimed = impl_->reclaim(); !reclaimed) return reclaimed;
  if (!ready()) return std::unexpected(Error::os(EAGAIN, "vulkan::Convert::accept", impl_->name));
  if (!frame.ready().is_null() || frame.info().has_implicit_fences) {
    auto filled = impl_->fence_of(frame);
    if (!filled) return std::unexpected(filled.error());
    impl_->filled = std::move(*filled);
  }
  impl_->pending = std::move(frame);
  auto advanced = impl_->submit_pending();
  return advanced ? Result<void>() : std::unexpected(advanced.error());
}

Result<Frame> Convert::take() {
  if (auto alive = impl_->gpu.alive("vulkan::Convert::take"); !alive) return std::unexpected(alive.error());
  if (!impl_->finished && (impl_->pending || impl_->slots[impl_->next_slot].busy)) {
    if (auto advanced = impl_->advance(); !advanced) return std::unexpected(advanced.error());
  }
  return std::move(impl_->finished);
}

Result<void> Convert::dispatch(short) {
  if (auto alive = impl_->gpu.alive("vulkan::Convert::dispatch"); !alive) return alive;
  auto advanced = impl_->advance();
  return advanced ? Result<void>() : std::unexpected(advanced.error());
}

std::uint64_t Convert::dropped() const noexcept { return impl_->dropped; }

int Convert::waiting_fence() const noexcept {
  const Impl& impl = *impl_;
  if (impl.pending) return impl.gpu_waits() || impl.filled.is_null() ? -1 : impl.filled.poll_fd();
  return impl.slots[impl.next_slot].busy ? impl.slots[impl.next_slot].end.poll_fd() : -1;
}

/// Submits the pending frame if possible; true if it was submitted. On an error the frame is released.
Result<bool> Convert::Impl::advance() {
  auto reclaimed = reclaim();
  if (reclaimed) return submit_pending();
  pending.release();
  filled = {};
  return std::unexpected(reclaimed.error());
}

Result<bool> Convert::Impl::submit_pending() {
  auto submitted = try_submit();
  if (submitted) return submitted;
  pending.release();
  filled = {};
  return submitted;
}

Result<bool> Convert::Impl::try_submit() {
  if (!pending || finished) return false;
  Slot& slot = slots[next_slot];
  if (auto may = may_submit(); !may || !*may) return may;
  auto target = pool->acquire(pending.info());
  if (!target) return false;  // all outputs are held downstream: try again later
  if (auto submitted = submit(slot, std::move(*target)); !submitted) return std::unexpected(submitted.error());
  next_slot = (next_slot + 1) % options.in_flight;
  return true;
}

/// The frame's own fence, merged with those on its memory if its producer has only these. If one has failed, returns
/// that one: may_submit() then releases the frame.
Result<Fence> Convert::Impl::fence_of(const Frame& frame) const {
  auto ready = frame.ready().dup();
  if (!ready || !frame.info().has_implicit_fences) return ready;
  auto implicit = export_fence(frame.buffer(), Access::read);
  if (!implicit) return implicit;
  std::array both{std::move(*ready), std::move(*implicit)};
  auto merged = merge(both);
  if (merged) return merged;
  for (Fence& one : both) {
    const auto state = one.state();
    if (state && *state == Fence::State::failed) return std::move(one);
  }
  return merged;
}

/// True if the frame's fence has signalled or can be left to the GPU. A frame whose fence has failed is released.
Result<bool> Convert::Impl::may_submit() {
  if (filled.is_null()) return true;
  auto state = filled.state();
  if (!state) return std::unexpected(state.error());
  if (*state == Fence::State::failed) {
    detail::log(LogLevel::warning, "%s: frame %llu is let go: the work that was to fill it failed", name.c_str(),
                static_cast<unsigned long long>(pending.info().sequence));
    ++dropped;
    pending.release();
    filled = {};
    return false;
  }
  if (*state == Fence::State::signalled) filled = {};
  return filled.is_null() || gpu_waits();
}

namespace {

/// The index of a frame's buffer among the inputs or outputs; their number if it is none of them. Nearly always the
/// frame's slot in its source.
template <typename Sides>
std::size_t place_of(const Sides& sides, const Frame& frame) noexcept {
  const Buffer& buffer = frame.buffer();
  if (frame.index() < sides.size() && sides[frame.index()].buffer == buffer) [[likely]]
    return frame.index();
  std::size_t i = 0;
  while (i < sides.size() && sides[i].buffer != buffer) ++i;
  return i;
}

}  // namespace

Result<void> Convert::Impl::submit(Slot& slot, Frame target) {
  const auto in = place_of(inputs, pending);
  const auto out = place_of(outputs, target);
  if (in == inputs.size() || out == outputs.size()) {
    return std::unexpected(
        Error::os(EINVAL, "vulkan::Convert::accept", name).detail("a buffer it was not started with"));
  }
  const auto pair = static_cast<std::uint32_t>(in * outputs.size() + out);
  FrameInfo info = pending.info();
  const Size size = input.layout.size;
  const Rect visible = info.visible.width != 0 ? info.visible : Rect{0, 0, size.width, size.height};
  if (visible != pairs[pair].visible || info.color != pairs[pair].color) {
    if (auto done = wait_idle(Deadline::after(gpu_patience)); !done) return done;  // it may still be executing
    if (auto done = record(pair, visible, info.color); !done) return done;
  }

  const bool waits = !filled.is_null();
  if (waits) {
    if (auto imported = device.import_fence(filled, slot.acquired); !imported) return imported;
  }
  const VkPipelineStageFlags stage = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
  const VkSubmitInfo work{.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                          .waitSemaphoreCount = waits ? 1U : 0U,
                          .pWaitSemaphores = &slot.acquired,
                          .pWaitDstStageMask = &stage,
                          .commandBufferCount = 1,
                          .pCommandBuffers = &pairs[pair].commands,
                          .signalSemaphoreCount = slot.done != VK_NULL_HANDLE ? 1U : 0U,
                          .pSignalSemaphores = &slot.done};
  if (auto submitted = gpu.submit(work, slot.fence); !submitted) return submitted;
  slot.busy = true;
  slot.pair = pair;
  slot.submitted = now;
  if (info.clock == FrameInfo::Clock::monotonic) waited.add(now.time_since_epoch() - info.timestamp);

  Fence done;
  if (slot.done != VK_NULL_HANDLE) {
    auto exported = device.export_fence(slot.done);
    if (!exported) return after_work(slot, exported.error());
    done = std::move(*exported);
  } else if (auto ended = wait_for(gpu, slot.fence, Deadline::after(gpu_patience)); !ended) {
    return ended;  // no fences to pass on, so the work is waited for
  }
  if (options.implicit_fences) {
    if (auto put = import_fence(target.buffer(), done, Access::write); !put) return after_work(slot, put.error());
  }
  give_back(slot, done);
  info.color = output.color;
  info.visible = {0, 0, output.layout.size.width, output.layout.size.height};
  info.bytes_used = {};
  info.has_implicit_fences = false;
  if (auto described = target.set_info(info, std::move(done)); !described) return described;
  finished = std::move(target);
  return {};
}

/// Fails, but only after the GPU is done with the frames, which are returned without a fence.
Result<void> Convert::Impl::after_work(const Slot& slot, const Error& error) {
  static_cast<void>(wait_for(gpu, slot.fence, Deadline::after(gpu_patience)));
  return std::unexpected(error);
}

/// Returns the frame that was read to its source, with the fence of the read.
void Convert::Impl::give_back(Slot& slot, const Fence& done) {
  // If the GPU is slower than the loop, the loop may have to wait for this slot: then a descriptor of its fence is
  // needed.
  const auto others_busy = std::ranges::count_if(std::span(slots).first(options.in_flight), &Slot::busy) > 1;
  if (others_busy || options.in_flight == 1) {
    if (auto end = done.dup()) slot.end = std::move(*end);
  }
  auto release = done.dup();
  if (release) {
    pending.release(std::move(*release));
  } else {
    slot.held = std::move(pending);  // no descriptor left: it is returned when the slot is free
  }
}

Result<void> Convert::Impl::reclaim() {
  now = Deadline::Clock::now();
  for (std::uint32_t i = 0; i < options.in_flight; ++i) {
    Slot& slot = slots[i];
    if (!slot.busy) continue;
    const VkResult status = gpu.vk.GetFenceStatus(gpu.device, slot.fence);
    if (status == VK_NOT_READY) continue;
    if (status != VK_SUCCESS) return std::unexpected(gpu.error(status, "vkGetFenceStatus"));
    if (auto done = finish(slot); !done) return done;
  }
  return {};
}

Result<void> Convert::Impl::finish(Slot& slot) {
  turnaround.add(now - slot.submitted);
  if (times != VK_NULL_HANDLE) {
    std::array<std::uint64_t, 2> ticks{};
    const VkResult got = gpu.vk.GetQueryPoolResults(gpu.device, times, 2 * slot.pair, 2, sizeof ticks, ticks.data(),
                                                    sizeof ticks[0], VK_QUERY_RESULT_64_BIT);
    if (got == VK_SUCCESS) {
      const double spent = static_cast<double>(ticks[1] - ticks[0]) * static_cast<double>(gpu.timestamp_period);
      gpu_time.add(std::chrono::nanoseconds(static_cast<std::int64_t>(spent)));
    }
  }
  slot.busy = false;
  slot.end = {};
  if (slot.held) slot.held.release();
  return gpu.checked(gpu.vk.ResetFences(gpu.device, 1, &slot.fence), "vkResetFences");
}

Result<void> Convert::Impl::wait_idle(Deadline deadline, const Cancel* cancel) {
  for (std::uint32_t i = 0; i < options.in_flight; ++i) {
    if (!slots[i].busy) continue;
    if (auto over = wait_for(gpu, slots[i].fence, deadline, cancel); !over) return over;
    now = Deadline::Clock::now();
    if (auto done = finish(slots[i]); !done) return done;
  }
  return {};
}

Result<void> Convert::drain(Deadline deadline, const Cancel* cancel) {
  if (auto alive = impl_->gpu.alive("vulkan::Convert::drain"); !alive) return alive;
  if (impl_->pending && !impl_->finished) {
    if (auto over = impl_->filled.wait(deadline, cancel);
        !over && (over.error().code() == ETIMEDOUT || over.error().code() == ECANCELED)) {
      return over;
    }
    if (auto advanced = impl_->advance(); !advanced) return std::unexpected(advanced.error());
  }
  return impl_->wait_idle(deadline, cancel);
}

Result<void> Convert::stop() noexcept {
  impl_->stop();
  return {};
}

// If the GPU does not finish in time, or is lost, what it may still use is destroyed anyway: Vulkan allows that for a
// lost device, and for one that hangs there is no better way.
void Convert::Impl::stop() noexcept {
  if (!started) return;
  if (gpu.device != VK_NULL_HANDLE) {
    if (auto idle = wait_idle(Deadline::after(gpu_patience)); !idle) {
      detail::log(LogLevel::warning, "%s: stopped while the GPU is at work: %s", name.c_str(),
                  idle.error().message().c_str());
    }
  }
  if (pending) ++dropped;
  pending.release();
  filled = {};
  finished.release();
  pool.reset();
  const Functions& vk = gpu.vk;
  if (VkDevice handle = gpu.device; handle != VK_NULL_HANDLE) {
    for (Slot& slot : slots) {
      vk.DestroySemaphore(handle, slot.acquired, nullptr);
      vk.DestroySemaphore(handle, slot.done, nullptr);
      vk.DestroyFence(handle, slot.fence, nullptr);
    }
    vk.DestroyQueryPool(handle, times, nullptr);
    vk.DestroyCommandPool(handle, commands, nullptr);
    for (const Input& one : inputs) {
      for (VkImageView view : one.views) vk.DestroyImageView(handle, view, nullptr);
    }
    for (const Output& one : outputs) vk.DestroyImageView(handle, one.view, nullptr);
  }
  shader.reset();
  sampler.reset();
  overlay.reset();
  slots = {};
  next_slot = 0;
  commands = VK_NULL_HANDLE;
  times = VK_NULL_HANDLE;
  pairs.clear();
  inputs.clear();
  outputs.clear();
  started = false;
}

}  // namespace dmaflow::vulkan
