"""VoP: prompts in every block of both towers that know a video's frames.

"VoP: Text-Video Co-operative Prompt Tuning for Cross-Modal Retrieval", CVPR 2023,
https://arxiv.org/abs/2211.12764. The text side is :class:`PromptedCLIPText`. Where the
paper leaves a choice, the number of parameters decides:

- The paper adds learned frame positions before the video-level blocks. With position or
  context prompts, its numbers leave no room for them, so only the function by itself
  has them.
- One BiLSTM and one linear layer make the context prompts of all blocks.
"""

from typing import Optional

import torch
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS

from .prompt_tower import PromptTower, at_least_one, behind_cls, learned, slots

__all__ = ['VoPCLIPViT']


@MODELS.register_module()
class VoPCLIPViT(PromptTower):
    """Prompt every block of a frozen CLIP, with a video's order, content or both.

    (B, 3, T, H, W) -> (B, E): the mean over frames of the unit-norm projected CLS.
    Prompts serve only as keys and values of one block. Without any of the three flags,
    they are the same for all frames. Their initialisation is ours.

    Args:
        clip: config of the video tower.
        position: P, half of the prompts depend on the place of the frame in the video.
        context: C, half of them are made from the frames' CLS, read in both directions.
        function: F, in the last third of the blocks, all frames are one sequence with
            prompts for the whole video.
        num_prompts: prompts per block, an even number with P or C.
        num_frames: places with prompts or positions of their own, for P and F. Another
            number of frames takes them evenly from these.

    Raises:
        ConfigError: P and C are both on, a number is less than 1 or odd, or the tower
            merges patches.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        position: bool = False,
        context: bool = False,
        function: bool = False,
        num_prompts: int = 8,
        num_frames: int = 12,
    ) -> None:
        at_least_one(num_prompts=num_prompts, num_frames=num_frames)
        special = position or context
        if position and context:
            raise ConfigError(
                'position=True and context=True both replace half of the prompts; set '
                'one of them'
            )
        if special and num_prompts % 2:
            raise ConfigError(
                f'num_prompts={num_prompts}, expected an even number: position or '
                f'context replaces half of them'
            )
        super().__init__(clip)
        depth, width = self.depth, self.width
        # Blocks 9 to 12 of the paper's 12 see all frames.
        self.frame_blocks = depth - max(1, depth // 3) if function else depth
        half = num_prompts // 2
        static = num_prompts - half if special else num_prompts
        self.prompts = learned(self.frame_blocks, static, width)
        self.position: Optional[nn.Parameter] = None
        if position:
            self.position = learned(self.frame_blocks, num_frames, half, width)
        self.context = ContextPrompter(width, half) if context else None
        self.video_prompts: Optional[nn.Parameter] = None
        self.frame_places: Optional[nn.Parameter] = None
        if function:
            self.video_prompts = learned(depth - self.frame_blocks, num_prompts, width)
            if not special:
                self.frame_places = nn.Parameter(torch.zeros(num_frames, width))

    def forward(self, video: Tensor) -> Tensor:
        """Embed a batch of clips: (B, 3, T, H, W) -> (B, E)."""
        x = self.embed(video)
        for i in range(self.frame_blocks):
            context = behind_cls(x, self._frame_prompts(i, x))
            x = self.run_block(i, self.read(x) if i == self.depth - 1 else x, context)
        if self.video_prompts is not None:
            x = self._as_one_sequence(x, self.video_prompts)
        return self.pool(x, video)

    def _frame_prompts(self, i: int, x: Tensor) -> Tensor:
        """Make the prompts of block i from its input: (B, T, L, D) -> (B, T, P, D)."""
        B, T = x.shape[:2]
        parts = [self.prompts[i]]
        if self.position is not None:
            parts.append(self.position[i, slots(T, self.position.shape[1])])
        if self.context is not None:
            parts.append(self.context(self.read(x).flatten(1, 2)))
        return torch.cat([part.expand(B, T, -1, -1).to(x) for part in parts], dim=2)

    def _as_one_sequence(self, x: Tensor, prompts: Tensor) -> Tensor:
        """Run the video-level blocks: (B, T, 1 + N, D) -> (B, T, 1, D), the CLS.

        All tokens see [CLS of all frames, the block's prompts, all patches].
        """
        B, T = x.shape[:2]
        if self.frame_places is not None:
            x = x + self.frame_places[slots(T, len(self.frame_places))].unsqueeze(1)
        parts = self.read(x), x[:, :, self.num_prefix :]
        x = torch.cat([part.flatten(1, 2) for part in parts], dim=1).unsqueeze(1)
        for i in range(self.frame_blocks, self.depth):
            own = prompts[i - self.frame_blocks].expand(B, 1, -1, -1).to(x)
            context = torch.cat([x[:, :, :T], own, x[:, :, T:]], dim=2)
            x = self.run_block(i, x[:, :, :T] if i == self.depth - 1 else x, context)
        return x.transpose(1, 2)


class ContextPrompter(nn.Module):
    """Make prompts for each frame from the CLS of all: (B, T, D) -> (B, T, P, D).

    A BiLSTM of one layer, and a linear layer. Its two directions are cells in a loop,
    which PyTorch compiles and runs in half precision, unlike ``nn.LSTM`` on a CPU.
    """

    def __init__(self, width: int, num_prompts: int) -> None:
        super().__init__()
        self.onward = nn.LSTMCell(width, width)
        self.back = nn.LSTMCell(width, width)
        self.out = nn.Linear(2 * width, num_prompts * width)

    def forward(self, cls: Tensor) -> Tensor:
        frames = list(cls.unbind(1))
        onward = _run(self.onward, frames)
        back = _run(self.back, frames[::-1])[::-1]
        read = torch.cat([torch.stack(onward, 1), torch.stack(back, 1)], dim=-1)
        return self.out(read).unflatten(-1, (-1, cls.shape[-1]))


def _run(cell: nn.LSTMCell, frames: list[Tensor]) -> list[Tensor]:
    """Return the hidden states after each of T frames (B, D)."""
    state: Optional[tuple[Tensor, Tensor]] = None
    hidden = []
    for frame in frames:
        state = cell(frame, state)
        hidden.append(state[0])
    return hidden
