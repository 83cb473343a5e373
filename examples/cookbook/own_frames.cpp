// own_frames: draws 60 frames into memory that the display shows, without a copy.
#include <dmaflow/dmaflow.hpp>

#include <algorithm>
#include <iostream>

using dmaflow::Deadline;

int main() try {
  dmaflow::StreamConfig stream;
  stream.layout = dmaflow::Layout::linear(dmaflow::formats::xrgb8888, {1024, 768}).value();
  const auto drawing = dmaflow::AppSource::create({stream}, {.name = "drawing"}).value();
  const auto card = dmaflow::kms::Device::open().value();
  dmaflow::Pipeline pipeline;
  pipeline.connect(*drawing, *card->output().value()->plane().value()).value();
  pipeline.start().value();

  for (int drawn = 0; drawn < 60;) {
    if (auto frame = drawing->acquire()) {  // as its layout() says: another memory may have other strides
      auto pixels =
          dmaflow::CpuAccess::begin(frame->buffer(), dmaflow::Access::write, Deadline::after(std::chrono::seconds(1)))
              .value();
      std::ranges::fill(pixels.writable_plane(0), static_cast<std::byte>(drawn * 4));
      pixels.end().value();
      drawing->push(std::move(*frame)).value();
      ++drawn;
    }
    pipeline.step(Deadline::after(std::chrono::milliseconds(20))).value();
  }
  pipeline.stop(Deadline::after(std::chrono::seconds(2))).value();
  std::cout << pipeline.stats().streams[0].captured << " frames drawn\n";
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
